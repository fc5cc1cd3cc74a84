"""What a flight asks of a provider, which may be somebody else's."""

import asyncio

from tokenflight._core import failures
from tokenflight.providers.base import Provider, RefreshTokenBound
from tokenflight.tokens import TokenKey, TokenSet


async def ask(provider: Provider, key: TokenKey, tokens: TokenSet | None) -> TokenSet:
    """Let `provider` renew `tokens`, and keep what a provider of somebody else's does wrong inside the error tree."""
    try:
        renewed = await provider.renew(key.user_id, tokens)
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise failures.in_the_tree(exc, key)  # noqa: B904 - something that it waited for was cancelled, not the flight
    except Exception as exc:  # noqa: BLE001 - it may raise anything
        raise failures.in_the_tree(exc, key)  # noqa: B904 - the cause is set
    if not isinstance(renewed, TokenSet) or not renewed.access_token:  # an empty access token is never handed out
        raise failures.no_token_set(key, renewed)
    return renewed


def require_renewable(provider: Provider, key: TokenKey, tokens: TokenSet | None) -> None:
    """Raise `ReauthenticationRequired` if `provider` says that there is nothing to renew `tokens` with."""
    if isinstance(provider, RefreshTokenBound):
        provider.require_refresh_token(key.user_id, tokens)
