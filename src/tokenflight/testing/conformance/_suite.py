"""What the parts of the suite share: the hook, names, token sets, and a way to interrupt an operation."""
# ruff: noqa: S106 - the secrets are made up

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, ClassVar, Final

from tokenflight.stores.base import RenewalFailure, StoredTokens, TokenStore
from tokenflight.tokens import Target, TokenKey, TokenSet

KEY: Final = TokenKey("idp", "alice")
ISSUER: Final = "https://idp.example"

FULL: Final = TokenSet(
    access_token="access-full",
    token_type="DPoP",
    expires_at=1_800_000_000.25,
    refresh_token="refresh-full",
    scope="openid profil\u00e9 \U0001f600",
    id_token="header.payload.signature",
    issued_at=1_799_996_400,
    extra={"nested": {"list": [1, 2.5, None, True, "\u20ac", {}]}, "empty": "", "na\u00efve \U0001f600": "\x00\n'\"\\"},
)
BARE: Final = TokenSet(access_token="access-bare")
ACCESS_TOKENS: Final = {
    Target(resource="https://billing.example/api"): TokenSet(
        "access-billing", token_type="DPoP", expires_at=1_800_000_000.5, scope="invoices:read", issued_at=1_799_996_400
    ),
    Target(scope="orders:read orders:write", audience="\u20ac \U0001f600"): TokenSet("access-orders"),
}

FAILURE: Final = RenewalFailure("ProviderUnavailable", "server_error", 1_799_996_400.5, 1_799_996_402, 2, "\u20ac")

PLAIN_NAMES: Final = ("a", "b", "aa", "a.b", "a-b", "a_b", "alice@example.com", "1")
HOSTILE_NAMES: Final = (
    *("A", "B", "a/b", "A/B", "a\\b", "/a", "a/", "a//b", "a:b", "a|b", "a*", "a?", "a%2fb", "a%2Fb", "%", "%25", "~"),
    *(".", "..", "../..", "../a", ".a", "a.", "a..", "a ", " a", " "),
    *("con", "CON", "nul.txt", "lock", "a.json", "a.lock", "a.write-lock", "a.logout", ".a.json.tmp"),
    *("\x00", "a\x00", "a\x00b", "\n", "a\r\nb", "\x7f", "{a}", "[a]", "a'; drop table tokens; --", '"', "$a", "a,b"),
    *("\u00e9", "e\u0301", "\u00c9", "\u0130", "i\u0307", "\u00df", "ss", "\U0001f600", "\u202e", "\ufeff"),
    *("x" * 255, "x" * 256, "X" * 256, "x" * 3000, "x" * 2999 + "y", "\U0001f600" * 300, "\U0001f600" * 301, "/" * 300),
)
LONE_SURROGATES: Final = ("\ud800", "a\udfff", "\udfffa")

INTERRUPTIONS: Final = 30
"""At how many moments a cancellation is tried: first after one step of the event loop more each, then by time."""
STEPPED_INTERRUPTIONS: Final = 12
SECONDS_BETWEEN_INTERRUPTIONS: Final = 0.0004


class StoreSuite(ABC):
    """The hook and the settings of `StoreConformance`."""

    patience: ClassVar[float] = 20.0
    """Seconds to wait for an event that must happen. Longer than it ever takes."""

    moment: ClassVar[float] = 0.15
    """Seconds to wait for an event that must not happen. Longer than your store takes to grant a free lease."""

    takes_lone_surrogates: ClassVar[bool] = True
    """Whether names may contain lone surrogates, which are not Unicode text and which some databases can't hold."""

    @abstractmethod
    def open_store(self) -> AbstractAsyncContextManager[TokenStore]:
        """Open a store for as long as the context lasts.

        A test calls this several times, sometimes on the event loop of another thread. Each call gives a new store
        object on the same data, like another process would; the data is empty when the test begins. If your store
        keeps its data in the object, give the same object each time.
        """


def tokens_named(name: str) -> TokenSet:
    """A token set that has `name` in all its members."""
    return TokenSet(f"access-{name}", expires_at=1_800_000_000.0, refresh_token=f"refresh-{name}", scope=name)


def name_pair(key: TokenKey) -> tuple[str, str]:
    """What the tests sort keys by."""
    return key.provider, key.user_id


async def loaded(store: TokenStore, key: TokenKey = KEY) -> StoredTokens:
    """The record of `key`. Fails if there is none."""
    record = await store.load(key)
    if record is None:
        raise AssertionError(f"there is no record of {key}")
    return record


async def keys_of(store: TokenStore, provider: str | None = None) -> list[TokenKey]:
    """The keys in `store`, in its order."""
    return [key async for key in store.keys(provider)]


async def interrupted(operation: Coroutine[Any, Any, object], moment: int) -> None:
    """Begin `operation`, cancel it at the moment of that number, and wait for its end."""
    task = asyncio.ensure_future(operation)
    if moment < STEPPED_INTERRUPTIONS:
        for _ in range(moment):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep((moment - STEPPED_INTERRUPTIONS) * SECONDS_BETWEEN_INTERRUPTIONS)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


class Raises:
    """A context that has to end with an error of `kind`, and of that `code` if one is given, which it swallows."""

    def __init__(self, kind: type[Exception], *, code: str | None = None) -> None:
        self._kind = kind
        self._code = code

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if kind is None:
            raise AssertionError(f"{self._kind.__name__} was not raised")
        return isinstance(error, self._kind) and self._code in (None, getattr(error, "code", None))
