"""The metadata of one authorization server, loaded once and shared by all users of a provider.

The copy is replaced only by another valid one: of the same issuer, with a token endpoint that may be sent a secret. So
an outage of the document, or a document that has turned bad, changes nothing for a process that has a copy.

There are three addresses where a document may be. They are asked in turn only as long as no copy is at hand, and the
next one only where there is nothing at the one before it. From then on the address that answered is the only one.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from copy import copy
from typing import Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from tokenflight._checks import printable
from tokenflight._singleflight import Flight, SingleFlight
from tokenflight._urls import require_secure_url
from tokenflight.errors import ConfigurationError, ProviderMisconfigured, ProviderUnavailable, TokenflightError
from tokenflight.providers.metadata import ServerMetadata, parse_metadata_reply
from tokenflight.providers.replies import Reply
from tokenflight.providers.requests import Request, build_metadata_request, metadata_urls

MAX_AGE_SECONDS: Final = 24 * 3600.0
"""Metadata older than this is loaded again; where that fails, it stays in use."""

COOL_DOWN_SECONDS: Final = 5.0
"""For this long after a failure, that failure is the answer and nothing is sent. `reload` loads no more often."""

_WELL_KNOWN: Final = "/.well-known/"
_NOT_FOUND: Final = 404


def require_issuer(issuer: object, *, insecure_hosts: frozenset[str] = frozenset()) -> None:
    """Raise `ConfigurationError` unless `issuer` can be one (RFC 8414 §2): no address of metadata, no query."""
    require_secure_url("issuer", issuer, insecure_hosts=insecure_hosts)
    url = str(issuer)
    parts = urlsplit(url)
    before, well_known, after = parts.path.partition(_WELL_KNOWN)
    if well_known:
        _, slash, tenant = after.partition("/")
        meant = f"{parts.scheme}://{parts.netloc}{before}{slash}{tenant}"
        raise ConfigurationError(
            f"issuer must be the issuer, not the address of its metadata: pass {printable(meant)!r}. If the metadata "
            f"names another issuer, pass that one, and {printable(url)!r} as metadata_url"
        )
    if "?" in url:
        raise ConfigurationError(
            f"issuer must have no query: {printable(url)!r}; pass what the server calls itself, and the address of "
            "its metadata as metadata_url"
        )


class Discovery:
    """The metadata of `issuer`: one load serves all concurrent callers, and only valid metadata is kept.

    `issuer` has passed `require_issuer`. `send` exchanges a request for a reply. `timeout`, in seconds, is for all
    requests of a load together. `metadata_url` is the only address that is asked, if it is given. `insecure_hosts`
    come from `checked_hosts`.
    """

    def __init__(
        self,
        issuer: str,
        send: Callable[[Request], Awaitable[Reply]],
        *,
        provider: str,
        timeout: float,
        metadata_url: str | None = None,
        insecure_hosts: frozenset[str] = frozenset(),
    ) -> None:
        self._issuer = issuer
        self._send = send
        self._provider = provider
        self._timeout = timeout
        self._insecure_hosts = insecure_hosts
        self._urls = metadata_urls(issuer) if metadata_url is None else (metadata_url,)
        # A flight belongs to one event loop; a provider may be shared by refreshers on several.
        self._flights: WeakKeyDictionary[asyncio.AbstractEventLoop, SingleFlight[ServerMetadata]] = WeakKeyDictionary()
        self._metadata: ServerMetadata | None = None
        self._error: TokenflightError | None = None
        self._checked_at = 0.0
        self._reloaded_at = 0.0

    async def metadata(self) -> ServerMetadata:
        """Return the metadata, loaded by the first call.

        Raises `ProviderUnavailable`, `ProviderMisconfigured` or `InvalidProviderResponse` as long as none was valid.
        """
        age = time.time() - self._checked_at
        if self._error is not None and 0 <= age < COOL_DOWN_SECONDS:
            if self._metadata is None:
                raise copy(self._error)
            return self._metadata  # an outage of discovery is no outage while a valid copy is at hand
        if self._metadata is not None and self._error is None and 0 <= age < MAX_AGE_SECONDS:
            return self._metadata
        return await self._load_once()

    async def reload(self, doubted: ServerMetadata) -> ServerMetadata | None:
        """Return newer metadata than `doubted`, whose endpoints are not where it says; None if there is none.

        Metadata that was loaded since `doubted` was returned will do. Otherwise one load serves all callers, and the
        next one comes no sooner than after `COOL_DOWN_SECONDS`: an endpoint may be gone for good.
        """
        if self._metadata is doubted and not 0 <= time.time() - self._reloaded_at < COOL_DOWN_SECONDS:
            with suppress(TokenflightError):
                await self._load_once()
            self._reloaded_at = time.time()
        return None if self._metadata is doubted else self._metadata

    async def _load_once(self) -> ServerMetadata:
        """Load the metadata, or wait for the load that is under way."""
        flights = self._flights.setdefault(asyncio.get_running_loop(), SingleFlight())
        flight = flights.get(self._issuer) or flights.start(self._issuer, self._load)
        return await flight.result()

    async def _load(self, _: Flight[ServerMetadata]) -> ServerMetadata:
        try:
            self._metadata = await self._fetch()
            self._error = None
        except TokenflightError as exc:
            self._error = exc
            if self._metadata is None:
                raise
        finally:
            self._checked_at = time.time()
        return self._metadata

    async def _fetch(self) -> ServerMetadata:
        """Ask the addresses in turn, until there is something at one."""
        try:
            # A renewal's time is limited: several slow replies must not use up what the token request needs.
            async with asyncio.timeout(self._timeout):
                url, *others = self._urls
                reply = await self._send(build_metadata_request(url))
                while reply.status == _NOT_FOUND and others:
                    url = others.pop(0)
                    reply = await self._send(build_metadata_request(url))
        except TimeoutError:
            raise ProviderUnavailable(
                f"discovery of {self._issuer} took longer than {self._timeout:g} seconds; try again later",
                code="discovery_failed",
                provider=self._provider,
            ) from None
        if reply.status == _NOT_FOUND:
            raise ProviderMisconfigured(
                f"discovery of {self._issuer} found nothing at {' or '.join(self._urls)}; check the issuer, or pass "
                "the address of its metadata as metadata_url",
                code="discovery_failed",
                provider=self._provider,
            )
        metadata = parse_metadata_reply(
            reply, issuer=self._issuer, url=url, provider=self._provider, insecure_hosts=self._insecure_hosts
        )
        self._urls = (url,)
        return metadata
