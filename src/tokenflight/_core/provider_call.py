"""The call of a provider, which may be a third party's: whatever it raises becomes an error of the tree."""

import asyncio
import time
from dataclasses import replace

from tokenflight._core import failures
from tokenflight._core.deadlines import deadline
from tokenflight._core.state import RefresherState
from tokenflight.errors import ProviderUnavailable, TokenRefreshError
from tokenflight.providers.base import BaseProvider, PartialRenewal
from tokenflight.tokens import TokenKey, TokenSet


async def ask_provider(state: RefresherState, key: TokenKey, tokens: TokenSet | None, *, probe: object) -> TokenSet:
    """Let the provider renew `tokens`, within its time limit. Raises as `_call` does.

    If `probe` is the one after a pause of the provider, this ends it, whatever comes of the reply.
    """
    seconds, pause = state.limits.provider_timeout, state.limits.provider_pause
    try:
        async with deadline(seconds, failures.deadline_exceeded(key, seconds)):
            renewed = await _call(state.provider, key, tokens)
    except ProviderUnavailable as exc:
        pause = 0.0 if exc.code == "not_yet" else failures.pause_asked_for(exc, state.limits) or pause
        raise
    except (TokenRefreshError, PartialRenewal):
        pause = 0.0  # the provider has answered
        raise
    else:
        pause = 0.0
    finally:  # also if cancelled: a probe that never ended would hold all users until its deadline
        state.backoff.ended(probe, time.time(), pause=pause)
    return renewed


async def _call(provider: BaseProvider, key: TokenKey, tokens: TokenSet | None) -> TokenSet:
    """Let `provider` renew `tokens`; raises a `TokenflightError` or `PartialRenewal` unless a token set comes back."""
    asked_at = time.time()
    try:
        renewed = await provider.renew(key.user_id, tokens)
    except PartialRenewal:
        raise
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # The provider awaited something that was cancelled. The flight itself was not.
        raise failures.as_tokenflight_error(exc, key)  # noqa: B904 - the cause is set
    except Exception as exc:  # noqa: BLE001 - a third party's provider may raise anything
        raise failures.as_tokenflight_error(exc, key)  # noqa: B904 - the cause is set
    if not isinstance(renewed, TokenSet) or not renewed.access_token:  # an empty access token is never handed out
        raise failures.no_token_set(key, renewed)
    if renewed.issued_at is None and renewed.expires_at is None:
        # Of unknown age, it would be due at once. Counted from the request, it looks no fresher than it is.
        return replace(renewed, issued_at=asked_at)
    return renewed
