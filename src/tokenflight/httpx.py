"""Fresh bearer tokens for `httpx.AsyncClient`."""

from collections.abc import AsyncGenerator, Generator, Iterable

import httpx

from tokenflight.bearer import BearerFlow
from tokenflight.errors import ConfigurationError
from tokenflight.refresher import TokenRefresher

__all__ = ["BearerAuth"]


class BearerAuth(httpx.Auth):
    """Puts a valid access token of `user_id` on each request, and on one replay if the API rejects it.

    `origins` lists where tokens may go, such as ``https://api.example``; without it, any https origin, and plain http
    to loopback addresses. A request to another origin raises `ConfigurationError`, and so does a token that is not a
    bearer token. An error of `TokenRefresher.get_valid_token` passes through: a request never goes out without its
    token.

    A 401 that declares the token dead (RFC 6750 §3) renews it, and replays the request once if its body can be sent
    again. A body from ``content=`` bytes, ``data=`` or ``json=`` can. A stream or a multipart upload can't: the caller
    gets the 401, and the next request has the new token.
    """

    def __init__(self, refresher: TokenRefresher, user_id: str, *, origins: Iterable[str] | None = None) -> None:
        self._flow = BearerFlow(refresher, user_id, origins=origins, can_resend=_can_resend)

    # The flow's own generator: one that wrapped it here would be driven for every step of every request.
    def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send `request` with a token; see `httpx.Auth.async_auth_flow`."""
        return self._flow.run(request)

    def sync_auth_flow(self, _request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Not for the blocking `httpx.Client`: the refresher lives on an event loop."""
        raise ConfigurationError("BearerAuth works with httpx.AsyncClient, not with the blocking httpx.Client")


def _can_resend(request: httpx.Request) -> bool:
    return isinstance(request.stream, httpx.ByteStream)
