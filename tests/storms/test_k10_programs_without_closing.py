"""K10: a program that ends in the middle of a renewal stores what comes back, though it closes nothing."""

import asyncio
import signal
from pathlib import Path

import pytest

from kit import interrupted_process
from kit.support import login
from kit.workers import worker
from tokenflight import FileTokenStore, StoredTokens, TokenKey
from tokenflight.testing import FakeProvider

HALF_A_MOMENT = 0.2


@pytest.mark.parametrize(
    ("ending", "life_left", "signals"),
    [
        pytest.param("waiting", -1, 1, id="Ctrl-C"),
        pytest.param("leaving", 303, 0, id="main returns during a renewal in the background"),
        pytest.param("closing", -1, 2, id="Ctrl-C twice while it is being closed"),
    ],
)
async def test_k10_the_newest_refresh_token_is_stored_by_a_program_that_ends_while_it_is_in_the_air(
    fake: FakeProvider, tmp_path: Path, ending: str, life_left: float, signals: int
) -> None:
    store = FileTokenStore(tmp_path / "tokens")
    async with fake.serve() as issuer:
        key = TokenKey(issuer, "alice")
        await store.save(key, StoredTokens(login(fake, "alice", life_left=life_left), issuer=issuer))
        with fake.hold(after=True) as gate:
            async with worker(interrupted_process, issuer, str(tmp_path / "tokens"), ending) as process:
                await gate.reached()
                assert process.stdin is not None
                process.stdin.write(b"leave\n")
                await process.stdin.drain()
                for _ in range(signals):
                    process.send_signal(signal.SIGINT)
                    await asyncio.sleep(HALF_A_MOMENT)
                await asyncio.sleep(HALF_A_MOMENT)
                assert process.returncode is None, "it waits for the reply"
                gate.open()
                await asyncio.wait_for(process.wait(), 10)
        record = await store.load(key)
    assert record is not None
    assert record.tokens.refresh_token == fake.current_refresh_token("alice")
    assert fake.requests() == 1
