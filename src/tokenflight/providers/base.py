"""What tokenflight asks of a provider: two members at least, and five in all."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, Protocol

from tokenflight.errors import TokenRefreshError
from tokenflight.tokens import TokenSet


class Provider(Protocol):
    """What can renew a token set: an authorization server and this app's credentials there.

    An object with these two members is enough. A provider that is bound to one issuer, needs a refresh token or holds
    connections derives from `BaseProvider` instead and overrides what differs.
    """

    @property
    def name(self) -> str:
        """The provider's half of every `TokenKey`; it must stay the same for as long as records are kept."""
        ...

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        """Return a new token set for `user_id`, complete and ready to be stored.

        `tokens` is the token set on record, or None if there is none; a grant that needs no refresh token may ignore
        it. A refresher calls this for one user at a time. A `TokenRefreshError` says why there is no new token set;
        the record stays as it is. `PartialRenewal` says that at least the refresh token is a new one.
        """
        ...


class PartialRenewal(Exception):  # noqa: N818 - named for what came of the renewal
    """A reply that is no good otherwise has brought a new refresh token.

    A provider raises it from `renew`. The refresher stores `tokens`, which is the token set on record with the new
    refresh token in it, under the same guard as a renewal; then it raises `error` to its callers. Without that, the
    next renewal would send the spent refresh token, and servers that rotate answer that by revoking the whole grant.
    No caller of a refresher sees this exception.
    """

    def __init__(self, tokens: TokenSet, error: TokenRefreshError) -> None:
        super().__init__(str(error))
        self.tokens = tokens
        self.error = error


@dataclass(frozen=True, slots=True)
class AccessTokenHeader:
    """The header that carries an access token: its `name`, and the `scheme` before the token, None for none."""

    name: str = "Authorization"
    scheme: str | None = "Bearer"

    def value(self, access_token: str) -> str:
        """The header's value."""
        return access_token if self.scheme is None else f"{self.scheme} {access_token}"


BEARER_HEADER: Final = AccessTokenHeader()
"""The header of RFC 6750 §2.1."""


class BaseProvider(ABC):
    """A `Provider` with all that a refresher asks of one, and a default wherever there is a sensible one."""

    @property
    @abstractmethod
    def name(self) -> str:
        """See `Provider.name`."""

    @property
    def issuer(self) -> str | None:
        """The authorization server that the token sets belong to, or None.

        A record keeps the issuer. A refresher never sends its tokens to a provider with another one.
        """
        return None

    @property
    def access_token_header(self) -> AccessTokenHeader:
        """How a request to the API carries the access token; RFC 6750's way unless the vendor has its own."""
        return BEARER_HEADER

    def require_refresh_token(self, user_id: str, tokens: TokenSet | None) -> None:  # noqa: B027 - a default
        """Raise `ReauthenticationRequired` if `tokens` has no refresh token and this provider needs one.

        A refresher calls this before it takes the lease. It must send nothing.
        """

    @abstractmethod
    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        """See `Provider.renew`."""

    async def aclose(self) -> None:  # noqa: B027 - a default
        """Close the connections, after the requests under way have ended.

        A refresher calls this when it closes. The provider must open its connections again when it is used again.
        """


def as_base_provider(provider: Provider) -> BaseProvider:
    """Return `provider` if it is a `BaseProvider`, and otherwise one that renews through it."""
    return provider if isinstance(provider, BaseProvider) else _TwoMembers(provider)


class _TwoMembers(BaseProvider):
    """A provider of which nothing but `name` and `renew` is known."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    @property
    def name(self) -> str:
        return self._provider.name

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        return await self._provider.renew(user_id, tokens)
