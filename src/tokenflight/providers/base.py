"""The contract of a provider: what can renew a token set."""

import asyncio
from typing import Protocol, runtime_checkable

from tokenflight import _failures
from tokenflight.tokens import TokenKey, TokenSet


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


async def ask(provider: Provider, key: TokenKey, tokens: TokenSet | None) -> TokenSet:
    """Let `provider` renew `tokens`, and keep what a provider of somebody else's does wrong inside the error tree."""
    try:
        renewed = await provider.renew(key.user_id, tokens)
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _failures.in_the_tree(exc, key)  # noqa: B904 - something that it waited for was cancelled, not the flight
    except Exception as exc:  # noqa: BLE001 - it may raise anything
        raise _failures.in_the_tree(exc, key)  # noqa: B904 - the cause is set
    if not isinstance(renewed, TokenSet):
        raise _failures.no_token_set(key, renewed)
    return renewed


def require_renewable(provider: Provider, key: TokenKey, tokens: TokenSet | None) -> None:
    """Raise `ReauthenticationRequired` if `provider` says that there is nothing to renew `tokens` with."""
    if isinstance(provider, RefreshTokenBound):
        provider.require_refresh_token(key.user_id, tokens)


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
