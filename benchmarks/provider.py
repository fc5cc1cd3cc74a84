"""The provider for all libraries, in a process of its own: `python -m benchmarks.provider`.

It is as strict as RFC 9700 §4.14 recommends: a refresh token is valid for one use, and a second use revokes the grant.
It prints its URL, and ends when its standard input ends. Requests to ``/control`` set its conduct and return what it
saw; `Provider` sends them.
"""

import asyncio
import base64
import json
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, Final

import httpx

from tokenflight.testing.asgi import Receive, Request, Scope, Send, read_body, send_reply
from tokenflight.testing.grants import Grants, RefreshTokenRules
from tokenflight.testing.loopback import serve_on_loopback
from tokenflight.testing.replies import Reply, json_reply, text_reply, token_error

CLIENT_ID: Final = "app"
CLIENT_SECRET: Final = "s3cret"
MICROSOFT: Final = "https://login.example/tenant"
"""The address of this provider for libraries that only know Microsoft's. Their requests are sent to loopback."""

EXPIRED: Final = 0.0
"""The lifetime in seconds of a token that is expired when it is issued."""


@dataclass(frozen=True, slots=True)
class Login:
    """The result of a login. `expires_at` is in POSIX seconds.

    A library that accepts no tokens gets `code` instead, and exchanges it once for the same tokens.
    """

    base_url: str
    user_id: str
    code: str
    access_token: str
    refresh_token: str
    expires_at: float

    @property
    def token_endpoint(self) -> str:
        """The URL of the token endpoint."""
        return f"{self.base_url}/token"


@dataclass(frozen=True, slots=True)
class Conduct:
    """The provider's answer to refresh requests.

    It answers after `seconds`, with access tokens of `lifetime` seconds, or with an error if `status` is not 200. If it
    `holds`, it keeps each request waiting until it is told to let the requests in.
    """

    seconds: float = 0.0
    status: int = 200
    lifetime: float = 3600.0
    holds: bool = False


@dataclass(frozen=True, slots=True)
class Sight:
    """What the provider saw of one user: the number of refresh requests, and whether the grant is revoked.

    `live` lists those of the given access tokens that an API would accept.
    """

    requests: int
    revoked: bool
    live: Sequence[str]


class Provider:
    """The provider, seen from another process."""

    def __init__(self, control: httpx.AsyncClient) -> None:
        self.base_url = str(control.base_url).rstrip("/")
        self._control = control
        self._numbers = count(1)

    async def login(self, *, lifetime: float = EXPIRED) -> Login:
        """Log a new user in, with an access token of `lifetime` seconds."""
        user_id = f"user-{next(self._numbers)}"
        reply = await self._tell("login", user_id=user_id, lifetime=lifetime)
        return Login(base_url=self.base_url, user_id=user_id, **reply)

    async def behave(self, conduct: Conduct) -> None:
        """Answer refresh requests according to `conduct` from now on."""
        await self._tell("behave", **asdict(conduct))

    async def holds_a_request(self) -> None:
        """Wait until the provider holds a request."""
        await self._tell("await-request")

    async def let_in(self) -> None:
        """Let in all held requests, and all later ones."""
        await self._tell("let-in")

    async def sight(self, login: Login, access_tokens: Sequence[str]) -> Sight:
        """What the provider saw of the user of `login`."""
        return Sight(**await self._tell("sight", user_id=login.user_id, access_tokens=list(access_tokens)))

    async def _tell(self, command: str, **members: object) -> dict[str, Any]:
        response = await self._control.post(f"/control/{command}", json=members)
        reply: dict[str, Any] = response.raise_for_status().json()
        return reply


@asynccontextmanager
async def provider_process() -> AsyncIterator[Provider]:
    """Run a provider in a process of its own, so that its work is not measured as the client's."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        base_url = (await process.stdout.readline()).decode().strip()
        if not base_url:
            raise RuntimeError("the provider did not start")
        async with httpx.AsyncClient(base_url=base_url, timeout=60, trust_env=False) as control:
            yield Provider(control)
    finally:
        process.stdin.close()
        await process.wait()


class StrictProvider:
    """The provider as an ASGI app. It awaits nothing while it changes its state."""

    def __init__(self) -> None:
        self._grants = Grants()
        self._requests: dict[str | None, int] = {}
        self._codes: dict[str, dict[str, Any]] = {}
        self._conduct = Conduct()
        self._arrival = asyncio.Event()
        self._door = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        body = await read_body(receive)
        if body is None:
            return
        path: str = scope["path"]
        if path.startswith("/control/"):
            reply = json_reply(await self._obey(path.removeprefix("/control/"), json.loads(body)))
        elif path.endswith("/openid-configuration"):
            endpoint = f"{MICROSOFT}/oauth2/v2.0"
            reply = json_reply(
                {
                    "issuer": MICROSOFT,
                    "authorization_endpoint": f"{endpoint}/authorize",
                    "token_endpoint": f"{endpoint}/token",
                }
            )
        elif path.endswith("/token"):
            reply = await self._token_reply(Request("token", scope["method"], dict(scope["headers"]), body))
        else:
            reply = text_reply(404, "Not found")
        await send_reply(reply, send)

    async def _obey(self, command: str, told: dict[str, Any]) -> dict[str, Any]:
        match command:
            case "login":
                return self._log_in(**told)
            case "behave":
                self._conduct = Conduct(**told)
                self._arrival.clear()
                self._door.clear()
            case "await-request":
                await self._arrival.wait()
            case "let-in":
                self._door.set()
            case "sight":
                return self._report(**told)
            case _:
                raise ValueError(command)
        return {}

    def _log_in(self, user_id: str, lifetime: float) -> dict[str, Any]:
        now = time.time()
        reply = self._grants.start(user_id, now=now, lifetime=lifetime)
        code = f"code-{user_id}"
        self._codes[code] = {**reply, **_microsoft_members(user_id)}
        return {
            "code": code,
            "access_token": reply["access_token"],
            "refresh_token": reply["refresh_token"],
            "expires_at": now + lifetime,
        }

    def _report(self, user_id: str, access_tokens: list[str]) -> dict[str, Any]:
        now = time.time()
        sight = Sight(
            requests=self._requests.get(user_id, 0),
            revoked=self._grants.latest(user_id).revoked,
            live=[token for token in access_tokens if self._grants.is_live(token, now=now)],
        )
        return asdict(sight)

    async def _token_reply(self, request: Request) -> Reply:
        if request.form is None:
            return await self._amazon_reply(request)
        match request.form:
            case {"grant_type": "refresh_token", "refresh_token": refresh_token}:
                status, members = await self._refresh(refresh_token)
            case {"grant_type": "authorization_code" | "password"} as form:
                # A password is a code here, valid once: a library can't log the user in again without the user.
                status, members = 200, self._codes.pop(form.get("code") or form.get("password") or "", None)
                if members is not None:
                    members["scope"] = form.get("scope", members["scope"])
                    if form["grant_type"] == "password":
                        members["expires_in"] = max(members["expires_in"], 1)  # the library takes 0 for no expiry
            case _:
                return token_error("unsupported_grant_type")
        if status != 200:
            return text_reply(status, "Try again later")
        return token_error("invalid_grant") if members is None else json_reply(members)

    async def _amazon_reply(self, request: Request) -> Reply:
        """Answer as AWS IAM Identity Center does (CreateToken of its OIDC API)."""
        status, members = await self._refresh(json.loads(request.body)["refreshToken"])
        if status != 200:
            return text_reply(status, "Try again later")
        if members is None:
            error = {"error": "invalid_grant", "error_description": "spent"}
            return json_reply(error, status=400, headers={"x-amzn-errortype": "InvalidGrantException"})
        return json_reply(
            {
                "accessToken": members["access_token"],
                "refreshToken": members["refresh_token"],
                "expiresIn": int(members["expires_in"]),
                "tokenType": "Bearer",
            }
        )

    async def _refresh(self, refresh_token: str) -> tuple[int, dict[str, Any] | None]:
        """Return the status, and the members of the reply or None for a refused refresh token."""
        user_id = self._grants.user_of_refresh_token(refresh_token)
        self._requests[user_id] = self._requests.get(user_id, 0) + 1
        conduct = self._conduct
        self._arrival.set()
        if conduct.holds:
            await self._door.wait()
        members = None
        if conduct.status == 200:
            members = self._grants.refresh(
                refresh_token, now=time.time(), lifetime=conduct.lifetime, rules=RefreshTokenRules()
            )
        if conduct.seconds:
            await asyncio.sleep(conduct.seconds)
        return conduct.status, members


def _microsoft_members(user_id: str) -> Mapping[str, str]:
    """The members that only Microsoft's token replies have: the user's account."""
    account = {"uid": user_id, "utid": "tenant"}
    claims = {"oid": user_id, "tid": "tenant", "sub": user_id, "preferred_username": user_id}
    return {"client_info": _encoded(account), "id_token": f"{_encoded({})}.{_encoded(claims)}."}


def _encoded(members: Mapping[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")


async def _main() -> None:
    async with serve_on_loopback(StrictProvider(), cancel_requests=lambda: None) as base_url:
        print(base_url, flush=True)
        await asyncio.to_thread(sys.stdin.read)  # ends also when the parent process dies


if __name__ == "__main__":
    asyncio.run(_main())
