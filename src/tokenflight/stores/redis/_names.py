"""The names of the keys in Redis: percent-encoded, so that a name tells which record or lease it belongs to."""

from functools import lru_cache, partial
from urllib.parse import quote, unquote

from tokenflight.stores._listing import listed_key
from tokenflight.tokens import TokenKey


class KeyNames:
    """The names under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = quote(prefix, safe=":/", errors="surrogatepass")
        self.channel = f"{self.prefix}:released"

    def record(self, key: TokenKey) -> str:
        """The name of the record of `key`."""
        return f"{self._stem(key)}:tokens"

    def lease(self, key: TokenKey) -> str:
        """The name of the lease on `key`."""
        return f"{self._stem(key)}:lease"

    def logout(self, key: TokenKey) -> str:
        """The name of what a logout of `key` leaves behind."""
        return f"{self._stem(key)}:logout"

    def holders(self, key: TokenKey) -> str:
        """The name of those who have taken the lease on `key` and not given it back."""
        return f"{self._stem(key)}:holders"

    def of_record(self, key: TokenKey) -> tuple[str, str, str]:
        """The names of the record of `key`, of what a logout leaves behind, and of the holders of the lease."""
        return self.record(key), self.logout(key), self.holders(key)

    def pattern(self, provider: str | None) -> str:
        """A pattern that matches the records of one provider or of all."""
        return f"{self.prefix}:{{{'*' if provider is None else _encode(provider)}:*}}:tokens"

    def key_of(self, name: str) -> TokenKey | None:
        """The key whose record has this name; None if the name is not of our making."""
        provider, _, user_id = name.removeprefix(f"{self.prefix}:{{").removesuffix("}:tokens").partition(":")
        return listed_key(partial(self._read, name, provider, user_id), name)

    def _read(self, name: str, *parts: str) -> TokenKey | None:
        key = TokenKey(*(unquote(part, errors="surrogatepass") for part in parts))
        return key if self.record(key) == name else None

    def _stem(self, key: TokenKey) -> str:
        # A cluster hashes what is in braces: all keys of a user are on the same node.
        return f"{self.prefix}:{{{_encode(key.provider)}:{_encode(key.user_id)}}}"


@lru_cache(maxsize=1024)  # one renewal needs each name four times
def _encode(text: str) -> str:
    return quote(text, safe="@+", errors="surrogatepass")
