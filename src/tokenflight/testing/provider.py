"""The fake provider: an ASGI app over grants, with faults and gates before its endpoints."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from types import EllipsisType
from typing import Any, Final, assert_never
from urllib.parse import urlsplit

import httpx

from tokenflight._checks import require_kind
from tokenflight._urls import require_secure_url
from tokenflight.errors import ConfigurationError
from tokenflight.testing.asgi import (
    ConnectionDropped,
    Receive,
    Request,
    Scope,
    Send,
    read_body,
    send_reply,
    serve_lifespan,
)
from tokenflight.testing.endpoints import api_reply, token_reply
from tokenflight.testing.faults import Endpoint, Fault
from tokenflight.testing.gates import Gate
from tokenflight.testing.grants import Grants, RefreshTokenRules, Rotation
from tokenflight.testing.provider_faults import ProviderFaults
from tokenflight.testing.replies import Reply, discovery_document, text_reply
from tokenflight.testing.reply_forms import ReplyForm, dressed

_PATHS: Final[Mapping[str, Endpoint]] = {
    "/token": "token",
    "/.well-known/openid-configuration": "discovery",
    "/api": "api",
}
"""Below the path of the issuer."""


class FakeProvider:
    """An OpenID provider, and an API that accepts its tokens, to test an app on.

    A test logs users in, lets the app run, and counts what reached the provider::

        async def test_a_user_is_renewed_once() -> None:
            fake = FakeProvider()
            async with fake.client() as http:
                provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
                async with TokenRefresher(provider) as refresher:
                    login = TokenSet.from_response(fake.login("alice", lifetime=1))
                    await refresher.save_tokens("alice", login)
                    await asyncio.gather(*(refresher.refresh_token("alice") for _ in range(100)))
            assert fake.refreshes("alice") == 1

    It is a plain ASGI 3 app. `client` gives an HTTP client that reaches it in-process; so does any client on
    ``httpx.ASGITransport(app=fake)``. `serve` puts it on a socket, for other processes or a realistic benchmark.

    Below the issuer there are ``/.well-known/openid-configuration``; ``/token`` for the grants ``refresh_token``
    and ``client_credentials`` (for the user in the form parameter ``sub``, or else the client itself); and ``/api``,
    which answers a live access token, whatever the method, with ``{"user_id": ..., "method": ..., "body_bytes":
    ...}``, and anything else with a 401. Users log in by `login`: there is no web page, and there are no ID tokens.

    `issuer` is the provider's issuer identifier. `rotation` says when a refresh gives a new refresh token:

    - ``"always"``: each time, and the old one is spent, as at GitHub.
    - ``"never"``: the reply has none, and the old one stays good, as at Google.
    - ``"sometimes"``: each second time of a grant; in between, as with ``"never"``.
    - ``"keeps_previous"``: each time, and the old one stays good until the new one is used, as at Shopify.

    For `grace` seconds after its replacement, the previous refresh token is still accepted, as at Okta and Auth0. The
    reply then has a new access token and the refresh token that replaced it. With `strict`, a spent refresh token that
    comes later revokes the whole grant, refresh and access tokens; without, the provider only refuses it. `lifetime`
    is the lifetime of access tokens in seconds; None leaves ``expires_in`` out, and they never expire. The token
    endpoint writes its successful replies in `reply_form`; None is the standard's. A test may change these five at any
    time. `client_id` and `client_secret` belong to the one client, which sends them in a Basic header or in the form;
    a secret of None makes it a public client.

    The provider reads the time from `time.time()`. It runs on one event loop, and awaits nothing while its state
    changes: each request is atomic. As at a real provider, a request that has arrived is carried out even if its
    client goes away.
    """

    def __init__(
        self,
        *,
        issuer: str = "http://fake-provider.localhost",
        rotation: Rotation = "always",
        grace: float = 0.0,
        strict: bool = True,
        lifetime: float | None = 3600,
        reply_form: ReplyForm | None = None,
        client_id: str = "app",
        client_secret: str | None = "s3cret",  # noqa: S107 - known to everybody
    ) -> None:
        require_secure_url("issuer", issuer)
        require_kind("reply_form", reply_form, ReplyForm | None)
        RefreshTokenRules(rotation, grace, strict)  # a wrong value raises here, and not in a later request
        self.rotation: Rotation = rotation
        self.grace = grace
        self.strict = strict
        self.lifetime = lifetime
        self.reply_form = reply_form
        self._client = (client_id, client_secret)
        self._grants = Grants()
        self._faults = ProviderFaults()
        self._requests: Counter[str | None] = Counter()
        self._api_calls: Counter[str | None] = Counter()
        self._discoveries = 0
        self._in_progress: set[asyncio.Task[Reply | None]] = set()
        self._set_issuer(issuer)

    def __repr__(self) -> str:
        return f"<FakeProvider {self._issuer}>"

    @property
    def issuer(self) -> str:
        """The issuer identifier: the one given, or the base URL while `serve` runs."""
        return self._issuer

    @property
    def token_endpoint(self) -> str:
        """The URL of the token endpoint."""
        return f"{self._issuer.rstrip('/')}/token"

    @property
    def api_url(self) -> str:
        """The URL of the API."""
        return f"{self._issuer.rstrip('/')}/api"

    def client(self, *, auth: httpx.Auth | None = None) -> httpx.AsyncClient:
        """Return an HTTP client that reaches this provider in-process; relative URLs start at the issuer."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self), base_url=self._issuer, auth=auth)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve on a free port of 127.0.0.1, and give the base URL, which is the issuer until the block ends.

        The server runs on the running event loop. At exit it closes every connection and drops unfinished requests.
        Raises `ConfigurationError` without uvicorn, which ``tokenflight[testing]`` installs.
        """
        try:
            from tokenflight.testing.loopback import serve_on_loopback  # noqa: PLC0415 - it needs the extra
        except ModuleNotFoundError as exc:
            raise ConfigurationError(
                "FakeProvider.serve needs uvicorn: install tokenflight[testing]", code="missing_extra"
            ) from exc
        issuer_before = self._issuer
        async with serve_on_loopback(self, cancel_requests=self._cancel_requests) as base_url:
            self._set_issuer(base_url)
            try:
                yield base_url
            finally:
                self._set_issuer(issuer_before)

    def login(self, user_id: str, *, lifetime: float | EllipsisType | None = ...) -> dict[str, Any]:
        """Log `user_id` in, which opens a new grant, and return the token reply (RFC 6749 §5.1).

        `lifetime` is the lifetime of this access token in seconds, the provider's if not given. Older grants of the
        user stay good, but the other methods that take a user are about the latest one.
        """
        chosen = self.lifetime if isinstance(lifetime, EllipsisType) else lifetime
        return self._grants.start(user_id, now=time.time(), lifetime=chosen)

    def requests(self, user_id: str | None = None) -> int:
        """Count the token requests that came, failed ones too: a user's, or all, those of unknown users too."""
        return self._requests.total() if user_id is None else self._requests[user_id]

    def refreshes(self, user_id: str | None = None) -> int:
        """Count how often a refresh token was accepted: a user's, or any."""
        return self._grants.refreshes.total() if user_id is None else self._grants.refreshes[user_id]

    def reuses(self, user_id: str | None = None) -> int:
        """Count how often a spent refresh token came again: a user's, or any."""
        return self._grants.reuses.total() if user_id is None else self._grants.reuses[user_id]

    def api_calls(self, user_id: str | None = None) -> int:
        """Count the API requests that came, refused ones too: with a user's token, or all."""
        return self._api_calls.total() if user_id is None else self._api_calls[user_id]

    @property
    def discoveries(self) -> int:
        """How many requests for the discovery document came."""
        return self._discoveries

    def current_refresh_token(self, user_id: str) -> str:
        """Return the refresh token that would be accepted now; `ConfigurationError` if there is none."""
        grant = self._grants.latest(user_id)
        if grant.refresh_token is None or grant.revoked:
            raise ConfigurationError(f"user {user_id!r} has no refresh token that would be accepted")
        return grant.refresh_token

    def revoked(self, user_id: str) -> bool:
        """Whether the grant of `user_id` is revoked: by `revoke`, or because a spent refresh token came again."""
        return self._grants.latest(user_id).revoked

    def revoke(self, user_id: str) -> None:
        """End the grant of `user_id`: a refresh gives ``invalid_grant``, the API answers 401."""
        self._grants.latest(user_id).revoked = True

    def revoke_access_tokens(self, user_id: str) -> None:
        """Let the API refuse the access tokens that `user_id` has so far; the refresh token stays good."""
        self._grants.latest(user_id).access_tokens.clear()

    def fail(
        self,
        fault: Fault,
        *,
        times: int | None = None,
        endpoint: Endpoint = "token",
        user_id: str | None = None,
    ) -> None:
        """Let `fault` happen to the next `times` requests at `endpoint`, or until `recover` if None.

        With `user_id`, it happens to requests of that user only. Of several faults, the one set first comes first.
        The next one follows once it is used up, except that a `Delay` and the next fault happen to the same request.
        """
        self._faults.add(fault, endpoint, user_id, times=times)

    def recover(self) -> None:
        """Clear all faults. A delayed request stays delayed, and a gate stays closed."""
        self._faults.clear()

    def hold(self, *, endpoint: Endpoint = "token", user_id: str | None = None, after: bool = False) -> Gate:
        """Return a gate that holds requests until it is opened, before faults happen and the provider acts.

        With `after`, it holds them once the provider has acted, before it replies. `endpoint` and `user_id` select
        the requests as in `fail`::

            with fake.hold() as gate:
                caller = asyncio.create_task(refresher.refresh_token("alice"))
                await gate.reached()
                caller.cancel()
        """
        return self._faults.hold(endpoint, user_id, after=after)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve as an ASGI 3 app: ``http`` and ``lifespan``."""
        if scope["type"] == "lifespan":
            await serve_lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"FakeProvider serves http and lifespan, not {scope['type']}")
        body = await read_body(receive)
        if body is None:
            return
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            await send_reply(text_reply(404, "Not found"), send)
            return
        reply = await self._handle(Request(endpoint, scope["method"], dict(scope["headers"]), body))
        if reply is None:
            raise ConnectionDropped
        await send_reply(reply, send)

    async def _handle(self, request: Request) -> Reply | None:
        self._register(request)
        if not self._faults:
            return self._act(request)
        # A task of its own: in-process, a client that gives up would cancel what the provider is about to do.
        task = asyncio.create_task(self._faults.reply_to(request, self._act))
        self._in_progress.add(task)
        task.add_done_callback(self._in_progress.discard)
        return await asyncio.shield(task)

    def _cancel_requests(self) -> None:
        for task in self._in_progress:
            task.cancel()

    def _set_issuer(self, issuer: str) -> None:
        self._issuer = issuer
        base = urlsplit(issuer).path.rstrip("/")
        self._endpoints: dict[str, Endpoint] = {base + path: endpoint for path, endpoint in _PATHS.items()}

    def _register(self, request: Request) -> None:
        """Find the user of `request`, and count it."""
        match request.endpoint:
            case "token":
                request.user_id = self._user_of(request.form or {})
                self._requests[request.user_id] += 1
            case "api":
                request.user_id = self._grants.user_of_access_token(request.credentials("bearer") or "")
                self._api_calls[request.user_id] += 1
            case "discovery":
                self._discoveries += 1
            case _:
                assert_never(request.endpoint)

    def _user_of(self, form: Mapping[str, str]) -> str | None:
        if form.get("grant_type") == "client_credentials":
            return form.get("sub", self._client[0])
        return self._grants.user_of_refresh_token(form.get("refresh_token", ""))

    def _act(self, request: Request) -> Reply:
        """Carry out `request`. Awaits nothing, so that requests can't interleave."""
        match request.endpoint:
            case "token":
                rules = RefreshTokenRules(self.rotation, self.grace, self.strict)
                reply = token_reply(request, self._grants, client=self._client, lifetime=self.lifetime, rules=rules)
                if self.reply_form is None or reply.status != HTTPStatus.OK:
                    return reply
                return dressed(reply, self.reply_form)
            case "api":
                return api_reply(request, self._grants)
            case "discovery":
                return discovery_document(self._issuer, self.token_endpoint, is_public=self._client[1] is None)
            case _:
                assert_never(request.endpoint)
