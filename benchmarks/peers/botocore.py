"""botocore: the token provider of AWS IAM Identity Center, with its file cache (docs.aws.amazon.com, "SSO")."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from botocore.session import Session as BotocoreSession
from botocore.tokens import SSOTokenProvider
from botocore.utils import JSONFileCache, SSOTokenLoader

from benchmarks.peers.base import Session
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, Login

_START_URL: Final = "https://start.example"
_SSO_SESSION: Final = "benchmark"


@asynccontextmanager
async def open_session(login: Login) -> AsyncIterator[Session]:
    """Open a token with the tokens of `login` in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="tokenflight-benchmark-") as directory:
        await seed(login, directory)
        async with open_shared(login, directory) as session:
            yield session


@asynccontextmanager
async def open_shared(login: Login, location: str) -> AsyncIterator[Session]:
    """Open a token on the cache in the directory `location`."""
    token = await asyncio.to_thread(_token, login, location)

    def ask_in_thread() -> str:
        access_token: str = token.get_frozen_token().token
        return access_token

    async def repeat(count: int) -> None:
        token.get_frozen_token()
        token._next_refresh = datetime.now(UTC)  # noqa: SLF001 - its usual state, except in the minute after a renewal
        for _ in range(count):
            token.get_frozen_token()

    yield Session(ask_in_thread=ask_in_thread, repeat=repeat)


async def seed(login: Login, location: str) -> None:
    """Write the tokens of `login` into the directory `location`, as ``aws sso login`` does."""
    members = {
        "startUrl": _START_URL,
        "region": "us-east-1",
        "accessToken": login.access_token,
        "expiresAt": datetime.fromtimestamp(login.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "refreshToken": login.refresh_token,
        "clientId": CLIENT_ID,
        "clientSecret": CLIENT_SECRET,
        "registrationExpiresAt": "2100-01-01T00:00:00Z",
    }
    SSOTokenLoader(_cache(location)).save_token(_START_URL, members, session_name=_SSO_SESSION)


def _token(login: Login, location: str) -> Any:
    config = Path(location, "config")
    config.write_text(
        f"[default]\nsso_session = {_SSO_SESSION}\nendpoint_url = {login.base_url}\n"
        f"[sso-session {_SSO_SESSION}]\nsso_region = us-east-1\nsso_start_url = {_START_URL}\n"
    )
    session = BotocoreSession()
    session.set_config_variable("config_file", str(config))
    return SSOTokenProvider(session, cache=_cache(location)).load_token()


def _cache(location: str) -> Any:
    return JSONFileCache(location, dumps_func=_dumps)


def _dumps(members: Any) -> str:
    return json.dumps(members, default=lambda time: time.strftime("%Y-%m-%dT%H:%M:%SZ"))
