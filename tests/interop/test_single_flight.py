"""Many callers, one renewal: counted by a provider that revokes the grant if there is a second one."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tokenflight import FileTokenStore, OIDCProvider, TokenKey, TokenRefresher, TokenSet

from .oidc_server import AccountStats, OIDCServer

WORKER = Path(__file__).with_name("worker.py")
WORKERS = 4
CALLERS_IN_EACH = 25


async def test_s1_a_thousand_callers_of_one_user_cost_one_renewal(oidc_server: OIDCServer, account: str) -> None:
    client = oidc_server.clients["client_secret_basic"]
    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client)) as refresher:
        await refresher.save_tokens("alice", await oidc_server.expired_login(client, account))
        results = await asyncio.gather(*(refresher.get_valid_token("alice") for _ in range(1000)))
    assert len({tokens.access_token for tokens in results}) == 1
    assert await oidc_server.stats(account) == AccountStats(refreshed=1)


async def test_s3_cancelling_the_first_of_a_hundred_waiters_leaves_the_others_served(
    oidc_server: OIDCServer, account: str
) -> None:
    client = oidc_server.clients["client_secret_basic"]
    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client)) as refresher:
        await refresher.save_tokens("alice", await oidc_server.expired_login(client, account))
        async with oidc_server.holding_replies(account):
            waiters = [asyncio.create_task(refresher.get_valid_token("alice")) for _ in range(100)]
            await oidc_server.until_held(account)
            waiters[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiters[0]
        results = await asyncio.gather(*waiters[1:])
    assert len(results) == 99
    assert len({tokens.access_token for tokens in results}) == 1
    assert await oidc_server.stats(account) == AccountStats(refreshed=1)


async def test_s3_cancelling_every_waiter_leaves_the_rotated_token_on_disk(
    oidc_server: OIDCServer, account: str, tmp_path: Path
) -> None:
    client = oidc_server.clients["client_secret_basic"]
    provider = OIDCProvider(oidc_server.issuer, client)
    old = await oidc_server.expired_login(client, account)
    directory = tmp_path / "tokens"
    async with TokenRefresher(provider, FileTokenStore(directory)) as refresher:
        await refresher.save_tokens("alice", old)
        async with oidc_server.holding_replies(account):
            waiters = [asyncio.create_task(refresher.get_valid_token("alice")) for _ in range(100)]
            await oidc_server.until_held(account)
            for waiter in waiters:
                waiter.cancel()
            outcomes = await asyncio.gather(*waiters, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        rotated = await _until_replaced(directory, TokenKey(provider.name, "alice"), old)
    assert await oidc_server.stats(account) == AccountStats(refreshed=1)

    assert rotated.refresh_token is not None
    reply = await oidc_server.refresh_by_hand(client, rotated.refresh_token)
    assert reply.status_code == 200, "what is on disk is not the live refresh token"


async def test_x1_x2_x8_four_processes_on_one_file_store_cost_one_renewal(
    oidc_server: OIDCServer, account: str, tmp_path: Path
) -> None:
    client = oidc_server.clients["none"]
    directory = tmp_path / "tokens"
    provider = OIDCProvider(oidc_server.issuer, client)
    async with TokenRefresher(provider, FileTokenStore(directory)) as refresher:
        await refresher.save_tokens("alice", await oidc_server.expired_login(client, account))

    arguments = [oidc_server.issuer, client.client_id, str(directory), "alice", str(CALLERS_IN_EACH)]
    pipe = asyncio.subprocess.PIPE
    workers = [
        await asyncio.create_subprocess_exec(sys.executable, WORKER, *arguments, stdin=pipe, stdout=pipe, stderr=pipe)
        for _ in range(WORKERS)
    ]
    for worker in workers:
        assert worker.stdout is not None
        await worker.stdout.readline()
    outputs = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    for worker, (_, errors) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, errors.decode()
    access_tokens = [token for printed, _ in outputs for token in json.loads(printed)]
    assert len(access_tokens) == WORKERS * CALLERS_IN_EACH
    assert len(set(access_tokens)) == 1
    assert await oidc_server.stats(account) == AccountStats(refreshed=1)


async def _until_replaced(directory: Path, key: TokenKey, old: TokenSet) -> TokenSet:
    """Look on the disk, as another process would, until the refresh token there is not that of `old`."""
    store = FileTokenStore(directory)
    async with asyncio.timeout(5):
        while True:
            record = await store.load(key)
            if record is not None and record.tokens.refresh_token != old.refresh_token:
                await store.aclose()
                return record.tokens
            await asyncio.sleep(0.01)
