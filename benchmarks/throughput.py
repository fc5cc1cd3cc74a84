"""Measure how many users a second one process renews, beside the bare HTTP requests."""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import httpx

from benchmarks.comparison import Effort, Rival, compare
from benchmarks.loopback_server import token_endpoint
from benchmarks.rates import as_rates, least_share
from benchmarks.report import Cell, Table
from benchmarks.subjects import HOUR_SECONDS, token_set
from tokenflight import ClientSecretBasic, FileTokenStore, OAuth2Provider, RefreshPolicy, TokenRefresher, TokenSet

USERS: Final = 10_000
MAX_ROUNDS: Final = 3
CREDENTIALS: Final = ("app", "s3cret")
LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=100)
"""The limits of the client that a provider opens itself."""


async def throughput(effort: Effort) -> list[Table]:
    """Compare a refresher that renews many users, all due at once, with httpx posting the same forms."""
    users = [f"user-{number}" for number in range(effort.share_of(USERS))]
    concurrency = RefreshPolicy().max_concurrent_renewals
    with token_endpoint() as url, tempfile.TemporaryDirectory(prefix="tokenflight-benchmark-") as directory:
        async with (
            httpx.AsyncClient(limits=LIMITS) as client,
            TokenRefresher(_provider(url)) as refresher,
            TokenRefresher(_provider(url), FileTokenStore(directory)) as file_refresher,
        ):

            async def post(_count: int) -> None:
                await _post_forms(client, url, count=len(users), concurrency=concurrency)

            async def expire() -> None:
                await _expire(refresher, users)

            async def renew(_count: int) -> None:
                await _renew(refresher, users)

            title = f"{len(users):,} users due at once, {concurrency} requests at a time: renewals"
            comparison = await compare(
                title,
                [
                    Rival("httpx.AsyncClient.post and Response.json", post),
                    Rival("TokenRefresher, tokens in memory", renew, prepare=expire, target=least_share(0.9)),
                ],
                count=len(users),
                effort=replace(effort, rounds=min(effort.rounds, MAX_ROUNDS)),
            )
            table = as_rates(title, [comparison])
            in_files = await _once_in_files(file_refresher, users)
    return [replace(table, rows=[*table.rows, in_files], notes=["Files: each record synced to disk, measured once."])]


def _provider(url: str) -> OAuth2Provider:
    return OAuth2Provider(url, ClientSecretBasic(*CREDENTIALS), name="loopback")


async def _post_forms(client: httpx.AsyncClient, url: str, *, count: int, concurrency: int) -> None:
    serials = iter(range(count))

    async def post() -> None:
        for serial in serials:
            form = {"grant_type": "refresh_token", "refresh_token": f"refresh-{serial:0>200}"}
            response = await client.post(url, data=form, auth=CREDENTIALS, timeout=30)
            response.json()

    await asyncio.gather(*[post() for _ in range(concurrency)])


async def _expire(refresher: TokenRefresher, users: Sequence[str]) -> None:
    await asyncio.gather(*[refresher.save_tokens(user, _due(serial)) for serial, user in enumerate(users)])


async def _renew(refresher: TokenRefresher, users: Sequence[str]) -> None:
    await asyncio.gather(*[refresher.get_valid_token(user) for user in users])


async def _once_in_files(refresher: TokenRefresher, users: Sequence[str]) -> Sequence[Cell]:
    await _expire(refresher, users)
    start = time.perf_counter()
    await _renew(refresher, users)
    rate = len(users) / (time.perf_counter() - start)
    return "TokenRefresher, tokens in files", round(rate), None, None, None, None


def _due(serial: int) -> TokenSet:
    return token_set(issued_at=time.time() - 2 * HOUR_SECONDS, serial=serial)
