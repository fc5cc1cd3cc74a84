"""A provider that answers at once, and token sets, shared by several questions."""

import asyncio
import time
from itertools import count

from tokenflight import TokenSet

USER = "alice"
HOUR_SECONDS = 3600


class PromptProvider:
    """A provider that answers after one turn of the event loop, and counts renewals."""

    name = "prompt"

    def __init__(self) -> None:
        self.renewals = 0
        self._serials = count(1)

    async def renew(self, _user_id: str, _tokens: TokenSet | None) -> TokenSet:
        """Return a token set of an hour."""
        self.renewals += 1
        await asyncio.sleep(0)
        return token_set(issued_at=time.time(), serial=next(self._serials))


def token_set(*, issued_at: float, serial: int = 0) -> TokenSet:
    """A token set of an hour, with tokens of a usual length."""
    return TokenSet(
        access_token=f"access-{serial:0>800}",
        refresh_token=f"refresh-{serial:0>200}",
        scope="openid profile email",
        issued_at=issued_at,
        expires_at=issued_at + HOUR_SECONDS,
    )
