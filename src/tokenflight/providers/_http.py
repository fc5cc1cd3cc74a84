"""The one place that sends a request to a provider. It knows httpx, so that no other module of the room has to."""

import asyncio
import copy
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

import httpx

from tokenflight._checks import require_kind
from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    ProviderMisconfigured,
    ProviderUnavailable,
    TokenRefreshError,
)
from tokenflight.providers.replies import Reply
from tokenflight.providers.requests import Request

HTTPClient: TypeAlias = httpx.AsyncClient
"""What an app may pass as ``http_client``."""

MAX_TIMEOUT_SECONDS: Final = 60.0
"""A flight gives a renewal two minutes: discovery and the token request have to fit in."""

MAX_REPLY_BYTES: Final = 1024 * 1024

MAX_CONNECTIONS: Final = 600
"""For the renewals that a refresher has under way at most, those that hang included, and for discovery."""

MAX_IDLE_CONNECTIONS: Final = 100

MAX_SENDS: Final = 3
"""How often a request is tried that never reached the provider."""

_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


async def _as_it_is(request: Request) -> Request:
    return request


class ProviderClient:
    """Sends requests to one provider, through `http_client` or, without one, a client of its own.

    `timeout` is in seconds, at most 60, for one whole exchange. Only the connections of a given client are used: not
    its authentication, headers, cookies, event hooks, redirects or timeouts. So no API credential reaches the
    provider, and no refresh token reaches the app's hooks.
    """

    def __init__(self, provider: str, http_client: HTTPClient | None, *, timeout: float) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= MAX_TIMEOUT_SECONDS:
            raise ConfigurationError(f"timeout must be more than 0 and at most {MAX_TIMEOUT_SECONDS:.0f} seconds")
        require_kind("http_client", http_client, HTTPClient | None)
        self._provider = provider
        self._given = http_client
        self._timeout = timeout
        self._closing: set[asyncio.Task[None]] = set()  # an event loop alone does not keep its tasks alive
        # A client's connections belong to one event loop; a provider may be shared by refreshers on several.
        self._own: WeakKeyDictionary[asyncio.AbstractEventLoop, _OwnClient] = WeakKeyDictionary()

    async def send(
        self,
        request: Request,
        *,
        prepare: Callable[[Request], Awaitable[Request]] = _as_it_is,
        user_id: str | None = None,
    ) -> Reply:
        """Send `request` and return the whole reply.

        A request that never reached the provider is sent again, `MAX_SENDS` times in all. Each time, `prepare` makes
        it ready, so that a proof in it is used once; it raises nothing but errors of tokenflight's.

        Raises `ProviderUnavailable`, with the code ``outcome_unknown`` if the provider may have acted;
        `ProviderMisconfigured` for a certificate that can't be trusted; `InvalidProviderResponse` for a reply that
        is larger than `MAX_REPLY_BYTES`. The body is not decompressed: what it would become is the reader's to bound.
        """
        try:
            async with asyncio.timeout(self._timeout), self._client() as client:
                return await self._exchange_with_retries(client, request, prepare)
        except (httpx.HTTPError, httpx.InvalidURL, _ReplyTooLargeError, TimeoutError) as exc:
            error = self._error_for(exc, request, user_id)
        # Raised here, where the caught exception is not its context: httpx's errors hold the request with its secrets.
        raise error

    async def aclose(self) -> None:
        """Close the own client of the running event loop, once the requests under way have ended."""
        loop = asyncio.get_running_loop()
        # Taken out first: a request that begins now opens a client of its own, and is not cut off.
        if (own := self._own.pop(loop, None)) is not None:
            # A task of its own, so that the connections are closed even if the caller is cancelled.
            task = loop.create_task(own.aclose(), name=f"tokenflight close {self._provider}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if closing := [task for task in self._closing if task.get_loop() is loop]:
            await asyncio.wait(closing)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        if self._given is not None:
            if self._given.is_closed:
                raise ConfigurationError(f"the http_client of {self._provider} is closed", code="closed")
            bare = copy.copy(self._given)  # shares the connections; the app's client keeps its hooks and cookies
            bare.event_hooks = {}
            bare.cookies = httpx.Cookies()
            yield bare
            return
        loop = asyncio.get_running_loop()
        own = self._own.get(loop)
        if own is None:
            own = self._own[loop] = _OwnClient()
        with own:  # counts the request, so that aclose waits for its reply
            yield own.client

    async def _exchange_with_retries(
        self, client: httpx.AsyncClient, request: Request, prepare: Callable[[Request], Awaitable[Request]]
    ) -> Reply:
        """Exchange `request` for a reply; try again at once if no connection was made."""
        for _ in range(MAX_SENDS - 1):
            try:
                return await self._exchange(client, await prepare(request))
            except httpx.ConnectError as exc:
                if _certificate_error(exc):
                    raise
        return await self._exchange(client, await prepare(request))

    async def _exchange(self, client: httpx.AsyncClient, request: Request) -> Reply:
        third = self._timeout / 3
        headers = httpx.Headers({"User-Agent": "tokenflight"})
        headers.update({**request.headers, "Accept-Encoding": "identity"})
        # A bare Request: building it through the client would add the client's default headers and cookies.
        message = httpx.Request(
            request.method,
            request.target,
            headers=headers,
            content=request.content if request.method == "POST" else None,
            # Connecting gets a third, so that an unreachable provider gives another error than a slow one.
            extensions={"timeout": httpx.Timeout(self._timeout, connect=third, pool=third).as_dict()},
        )
        if request.format == "query":
            message.url = _URLWithSecrets(message.url)
        # auth=None: a client that carries a BearerAuth must not ask the refresher from inside a flight.
        response = await client.send(message, auth=None, follow_redirects=False, stream=True)
        try:
            return Reply(response.status_code, _lower_case_names(response), await _raw_body(response))
        finally:
            # Unread, the reply would keep its connection from every other request.
            await response.aclose()

    def _error_for(self, exc: Exception, request: Request, user_id: str | None) -> TokenRefreshError:
        """Return what an exception of httpx's means for the caller. No other place maps them."""
        if _certificate_error(exc):
            return ProviderMisconfigured(
                f"the TLS certificate of {self._provider} can't be trusted; check its address, or install its "
                "certificate authority on this machine",
                code="untrusted_certificate",
                user_id=user_id,
                provider=self._provider,
            )
        if isinstance(exc, _ReplyTooLargeError):
            what = f"{self._provider} sent a reply of more than {MAX_REPLY_BYTES} bytes, which was not read"
            if not request.is_refresh:
                return InvalidProviderResponse(what, user_id=user_id, provider=self._provider)
            return InvalidProviderResponse(
                f"{what}; the stored refresh token may be spent",
                code="outcome_unknown",
                user_id=user_id,
                provider=self._provider,
            )
        if isinstance(exc, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return ProviderMisconfigured(
                f"no request can be sent to {self._provider} ({type(exc).__name__}); check its address and the client",
                code="unusable_request",
                user_id=user_id,
                provider=self._provider,
            )
        if isinstance(exc, _NEVER_SENT):
            what, code = "can't be reached; nothing was sent", "unreachable"
        else:
            what, code = "sent no complete reply; whether it acted is unknown", "outcome_unknown"
        return ProviderUnavailable(
            f"{self._provider} {what} ({type(exc).__name__}); try again later",
            code=code,
            user_id=user_id,
            provider=self._provider,
        )


class _ReplyTooLargeError(Exception):
    """The reply is not read to its end."""


class _URLWithSecrets(httpx.URL):
    """A URL that shows no query: httpx writes the URL of every request into its log."""

    def __str__(self) -> str:
        return str(self.copy_with(query=None))

    def __repr__(self) -> str:
        return repr(self.copy_with(query=None))


def _lower_case_names(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


async def _raw_body(response: httpx.Response) -> bytes:
    """The body as it came over the wire, compressed or not."""
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream), "an AsyncClient's response has such a stream"  # noqa: S101 - for type checkers
    body = bytearray()
    # Not `aiter_raw`, which refuses the response of an app's mock transport: httpx has read that one already.
    async for chunk in stream:
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise _ReplyTooLargeError
    return bytes(body)


class _OwnClient:
    """An `httpx.AsyncClient` that is closed only after the requests under way have ended."""

    def __init__(self) -> None:
        self.client = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_IDLE_CONNECTIONS),
            # No proxy of the environment's for plain http: it would be sent refresh tokens and secrets in clear text.
            mounts={"http://": None},
        )
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __enter__(self) -> None:
        self._requests += 1
        self._idle.clear()

    def __exit__(self, *exc_info: object) -> None:
        self._requests -= 1
        if not self._requests:
            self._idle.set()

    async def aclose(self) -> None:
        await self._idle.wait()  # closing under a request would lose the token set in its reply
        await self.client.aclose()


def _certificate_error(exc: BaseException | None) -> bool:
    """Whether `exc` was caused by a certificate that did not verify."""
    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return True
        exc = exc.__cause__ or exc.__context__
    return False
