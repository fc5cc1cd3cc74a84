"""The contract of a provider: what can renew a token set."""

from typing import Protocol, runtime_checkable

from tokenflight.tokens import TokenSet


class Provider(Protocol):
    """What can renew a token set: an authorization server plus this app's credentials there.

    `name` is the provider's half of every `TokenKey`, so it stays the same for as long as records are kept. With a
    property `issuer`, its records are sent to no other one (`IssuerBound`); with `require_refresh_token`, users who
    have none are told so without a lease (`RefreshTokenBound`); with `aclose`, it is closed with the refresher
    (`Closeable`).
    """

    @property
    def name(self) -> str:
        """The provider's half of every record's key."""
        ...

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        """Return a new token set for `user_id`, complete and ready to be stored.

        `tokens` is the one on record, or None if there is none; a grant that works without a refresh token may
        ignore it. Called for one user at a time. Raises a `TokenRefreshError`; nothing is stored then.
        """
        ...


@runtime_checkable
class RefreshTokenBound(Protocol):
    """A provider that can renew nothing without a refresh token."""

    def require_refresh_token(self, user_id: str, tokens: TokenSet | None) -> None:
        """Raise `ReauthenticationRequired` if there is none in `tokens`. Sends nothing."""
        ...


@runtime_checkable
class IssuerBound(Protocol):
    """A provider whose token sets belong to one authorization server and are sent to no other."""

    @property
    def issuer(self) -> str:
        """The authorization server."""
        ...


@runtime_checkable
class Closeable(Protocol):
    """A provider that holds connections. It opens them again when used after `aclose`."""

    async def aclose(self) -> None:
        """Close the connections, after the requests under way have ended."""
        ...
