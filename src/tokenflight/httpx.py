"""Fresh bearer tokens for `httpx.AsyncClient`."""

from collections.abc import AsyncGenerator, Generator, Iterable
from typing import Final

import httpx

from tokenflight.bearer import BearerRules, authorization, is_about_the_token
from tokenflight.errors import ConfigurationError
from tokenflight.refresher import TokenRefresher

__all__ = ["BearerAuth"]

_UNAUTHORIZED: Final = 401


class BearerAuth(httpx.Auth):
    """Puts a valid access token of `user_id` on each request, and on one replay if the API rejects it.

    `origins` lists where tokens may go, such as ``https://api.example``; without it, any https origin, and plain http
    to loopback addresses. A request to another origin raises `ConfigurationError`; so does what
    `TokenRefresher.get_valid_token` raises: a request is never sent without its token. A 401 about the token renews
    it, and replays the request once if its body can be sent again: one built from ``content=`` bytes, ``data=`` or
    ``json=`` can, a stream or a multipart upload can't, and its 401 is returned.
    """

    def __init__(self, refresher: TokenRefresher, user_id: str, *, origins: Iterable[str] | None = None) -> None:
        if isinstance(origins, str):
            raise ConfigurationError("origins must be a collection of origins, not one string")
        self._refresher = refresher
        self._user_id = user_id
        self._rules = BearerRules(origins)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send `request` with a token; see `httpx.Auth.async_auth_flow`."""
        self._rules.require_allowed(request.url)
        tokens = await self._refresher.get_valid_token(self._user_id)
        request.headers["Authorization"] = authorization(tokens)
        # Nothing is held here, neither a lock nor a lease: the API may take its time.
        response = yield request
        if response.status_code != _UNAUTHORIZED:
            return
        if not is_about_the_token(response.headers.get("WWW-Authenticate", "")):
            return
        tokens = await self._refresher.get_valid_token(self._user_id, rejected=tokens.access_token)
        if isinstance(request.stream, httpx.ByteStream):
            request.headers["Authorization"] = authorization(tokens)
            yield request

    def sync_auth_flow(self, _request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Not for the blocking `httpx.Client`: the refresher lives on an event loop."""
        raise ConfigurationError("BearerAuth works with httpx.AsyncClient, not with the blocking httpx.Client")
