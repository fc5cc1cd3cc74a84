"""Discovery: the provider's metadata, loaded once and shared by all users (OpenID Connect Discovery §4)."""

import asyncio
import time
from copy import copy
from typing import Final
from weakref import WeakKeyDictionary

from tokenflight._singleflight import Flight, SingleFlight
from tokenflight.errors import TokenflightError
from tokenflight.providers._http import ProviderClient
from tokenflight.providers.messages import DiscoveryDocument, Request, parse_discovery_reply

MAX_AGE_SECONDS: Final = 24 * 3600.0
"""A document older than this is loaded again; where that fails, it stays in use."""

COOL_DOWN_SECONDS: Final = 5.0
"""For this long after a failure, the failure is the answer."""


class Discovery:
    """The discovery document of `issuer`: one fetch however many ask, only valid documents kept."""

    def __init__(self, issuer: str, client: ProviderClient, *, provider: str) -> None:
        self._issuer = issuer
        self._client = client
        self._provider = provider
        # A flight belongs to one event loop; a provider may be shared by refreshers on several.
        self._flights: WeakKeyDictionary[asyncio.AbstractEventLoop, SingleFlight[DiscoveryDocument]] = (
            WeakKeyDictionary()
        )
        self._document: DiscoveryDocument | None = None
        self._error: TokenflightError | None = None
        self._checked_at = 0.0

    async def document(self) -> DiscoveryDocument:
        """The document, loaded on the first call.

        Raises `ProviderUnavailable`, `ProviderMisconfigured` or `InvalidProviderResponse` where there is none yet.
        """
        age = time.time() - self._checked_at
        if self._error is not None and 0 <= age < COOL_DOWN_SECONDS:
            if self._document is None:
                raise copy(self._error)
            return self._document  # an outage of discovery is no outage while there is a document
        if self._document is not None and self._error is None and 0 <= age < MAX_AGE_SECONDS:
            return self._document
        flights = self._flights.setdefault(asyncio.get_running_loop(), SingleFlight())
        flight = flights.get(self._issuer) or flights.start(self._issuer, self._load)
        return await flight.result()

    async def _load(self, _: Flight[DiscoveryDocument]) -> DiscoveryDocument:
        try:
            reply = await self._client.send(
                Request(
                    url=f"{self._issuer.rstrip('/')}/.well-known/openid-configuration",
                    headers={"Accept": "application/json"},
                )
            )
            self._document = parse_discovery_reply(reply, issuer=self._issuer, provider=self._provider)
            self._error = None
        except TokenflightError as exc:
            self._error = exc
            if self._document is None:
                raise
        finally:
            self._checked_at = time.time()
        return self._document
