"""What the users of a `TokenRefresher` live through when its disk is in trouble.

Some troubles can only be made for a whole process, so this is also a program: its arguments are the name of a trouble
and a directory.
"""

import asyncio
import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from kit.disks import TROUBLES, Trouble, mounting, run
from kit.support import login, until_told
from tokenflight import (
    ClientSecretBasic,
    FileTokenStore,
    OIDCProvider,
    RefreshPolicy,
    RenewalFailed,
    SaveFailed,
    SaveRecovered,
    StoreError,
    StoreUnavailable,
    TokenEvent,
    TokenKey,
    TokenRefresher,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import FakeProvider

NOBODY: Final = 65534
DISK_SIZE: Final = "256k"
DISK_INODES: Final = 60


@dataclass(slots=True)
class Scene:
    """A provider, and refreshers on one directory, each with a store of its own as if in a process of its own."""

    fake: FakeProvider
    provider: OIDCProvider
    directory: Path
    limits: Limits
    events: list[TokenEvent] = field(default_factory=list)
    logged: list[logging.LogRecord] = field(default_factory=list)

    def refresher(self, *, cache_ttl: float = 60.0) -> TokenRefresher:
        return TokenRefresher(
            self.provider,
            FileTokenStore(self.directory),
            policy=RefreshPolicy(cache_ttl=cache_ttl),
            on_event=self.events.append,
            _limits=self.limits,
        )

    async def renew_into(self, trouble: Trouble, refresher: TokenRefresher, *user_ids: str) -> ExitStack:
        """Let ten callers each wait for the renewal of `user_ids`, and `trouble` begin before it can be stored.

        Check that all get the provider's latest. Return what ends the trouble.
        """
        for user_id in user_ids:
            await refresher.save_tokens(user_id, login(self.fake, user_id, life_left=-1))
        bad = ExitStack()
        with self.fake.hold(after=True) as gate:
            callers = {
                user_id: [asyncio.create_task(refresher.get_valid_token(user_id)) for _ in range(10)]
                for user_id in user_ids
            }
            await gate.reached(len(user_ids))
            bad.enter_context(trouble.begin(self.directory))
        for user_id, tasks in callers.items():
            served = {tokens.refresh_token for tokens in await asyncio.gather(*tasks)}
            assert served == {self.fake.current_refresh_token(user_id)}
        return bad

    def failures(self, user_id: str) -> list[SaveFailed]:
        return [event for event in self.events if isinstance(event, SaveFailed) and event.user_id == user_id]


@asynccontextmanager
async def scene(directory: Path, *, pause: float) -> AsyncIterator[Scene]:
    """A scene where nobody waits long for a lease, and saving is tried again after `pause` seconds at first."""
    fake = FakeProvider()
    logger, handler = logging.getLogger("tokenflight"), logging.Handler()
    async with fake.client() as http:
        provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
        with pytest.MonkeyPatch.context() as patch:
            result = Scene(fake, provider, directory, Limits(lease_timeout=0.05, first_save_pause=pause))
            patch.setattr(handler, "emit", result.logged.append)
            logger.addHandler(handler)
            try:
                yield result
            finally:
                logger.removeHandler(handler)
    assert fake.reuses() == 0


async def it_is_stored_when_the_trouble_is_over(trouble: Trouble, directory: Path) -> None:
    async with scene(directory, pause=0.02) as on, on.refresher() as here, on.refresher() as there:
        await there.save_tokens("bob", login(on.fake, "bob"))  # it has seen the directory
        with await on.renew_into(trouble, here, "alice"):
            renewed = await here.get_valid_token("alice")
            async with asyncio.timeout(5):
                while len(on.failures("alice")) < 3:  # noqa: ASYNC110 - events come through a plain callable
                    await asyncio.sleep(0.01)
            with pytest.raises(StoreError):
                await there.get_valid_token("alice")
        await until_told(on.events, SaveRecovered)
        failures = on.failures("alice")
        assert {failure.code for failure in failures} == {trouble.code}
        assert [failure.attempts for failure in failures] == list(range(1, len(failures) + 1))
        errors = [record for record in on.logged if record.levelno >= logging.ERROR]
        assert [record.getMessage().split(" after ")[0] for record in errors] == [
            f"token unsaved for user 'alice' at {on.provider.name}"
        ] * len(failures)
        assert await there.load_tokens("alice") == renewed
        assert await there.get_valid_token("alice") == renewed
        assert on.fake.requests() == 1


async def it_is_stored_at_closing_if_the_trouble_is_over(trouble: Trouble, directory: Path) -> None:
    async with scene(directory, pause=60) as on, on.refresher() as there:
        async with on.refresher() as here:
            with await on.renew_into(trouble, here, "alice"):
                renewed = await here.get_valid_token("alice")
        assert await there.load_tokens("alice") == renewed


async def closing_says_who_is_lost(trouble: Trouble, directory: Path) -> None:
    async with scene(directory, pause=60) as on, on.refresher() as there:
        here = on.refresher()
        with await on.renew_into(trouble, here, "alice", "bob"):
            with pytest.raises(StoreUnavailable, match=r"2 users.*'alice', 'bob'") as caught:
                await here.aclose()
            assert caught.value.code == "unsaved"
            assert [failure.attempts for failure in on.failures("alice")] == [1, 2]
        kept = await there.load_tokens("alice")  # what was stored before is whole
        assert kept is not None
        assert kept.refresh_token != on.fake.current_refresh_token("alice")
        async with there._store.lease(TokenKey(on.provider.name, "alice"), timeout=0):
            pass


async def what_was_asked_for_is_stored_all_the_same(trouble: Trouble, directory: Path) -> None:
    async with scene(directory, pause=60) as on, on.refresher() as there:
        here = on.refresher()
        with await on.renew_into(trouble, here, "alice", "bob"):
            await here.aclose()
        for user_id in ("alice", "bob"):
            kept = await there.load_tokens(user_id)
            assert kept is not None
            assert kept.refresh_token == on.fake.current_refresh_token(user_id)
            assert on.failures(user_id) == []
        assert {path.suffix for path in files_in(directory)} == {".json", ".lock", ".write-lock"}


def files_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


async def what_is_known_is_served_and_nothing_is_sent(trouble: Trouble, directory: Path) -> None:
    async with (
        scene(directory, pause=0.02) as on,
        on.refresher() as here,
        on.refresher(cache_ttl=0) as wary,
        on.refresher() as cold,
    ):
        fresh, aged = login(on.fake, "fresh"), login(on.fake, "aged", life_left=100)
        await wary.save_tokens("fresh", fresh)
        await here.save_tokens("aged", aged)
        await here.save_tokens("expired", login(on.fake, "expired", life_left=-1))
        assert await cold.load_tokens("aged") == aged  # it has seen the directory
        with trouble.begin(directory):
            assert await wary.get_valid_token("fresh") == fresh
            assert await here.get_valid_token("aged") == aged
            for _ in range(2):
                with pytest.raises(StoreError) as caught:
                    await here.get_valid_token("expired")
                assert caught.value.code == trouble.code
            if trouble.hinders == "reading":
                with pytest.raises(StoreError) as caught:
                    await cold.get_valid_token("fresh")
                assert caught.value.code == trouble.code
            else:
                assert await cold.get_valid_token("fresh") == fresh
            assert on.fake.requests() == 0
        told = [(event.user_id, event.served) for event in on.events if isinstance(event, RenewalFailed)]
        assert ("aged", True) in told
        assert ("expired", False) in told
        # The trouble over, it is not held against anybody.
        renewed = await here.get_valid_token("expired")
        assert renewed.refresh_token == on.fake.current_refresh_token("expired")


Behaviour: TypeAlias = Callable[[Trouble, Path], Coroutine[Any, Any, None]]


def outcomes(name: str, directory: Path) -> dict[str, str]:
    """What came of each behaviour under the trouble `name`, in a process that can make it: a traceback, or nothing."""
    prefix = mounting() if TROUBLES[name].process == "mounting" else ()
    process = subprocess.run(
        [*prefix, sys.executable, __file__, name, str(directory)],
        stdout=subprocess.PIPE,
        check=True,
        # Not every process here could write its coverage file, or the whole of a file of byte code.
        env={variable: value for variable, value in os.environ.items() if not variable.startswith("COVERAGE_")}
        | {"PYTHONPATH": os.fspath(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    result: dict[str, str] = json.loads(process.stdout)
    return result


def behaviours(trouble: Trouble) -> list[Behaviour]:
    """What is to be seen under `trouble`."""
    always: list[Behaviour] = [
        it_is_stored_when_the_trouble_is_over,
        it_is_stored_at_closing_if_the_trouble_is_over,
        closing_says_who_is_lost,
    ]
    if trouble.is_provided_for:
        return [what_was_asked_for_is_stored_all_the_same, what_is_known_is_served_and_nothing_is_sent]
    return always if trouble.hinders == "writing" else [*always, what_is_known_is_served_and_nothing_is_sent]


def _outcome(behaviour: Behaviour, trouble: Trouble, directory: Path) -> str:
    try:
        asyncio.run(behaviour(trouble, directory))
    except Exception:  # noqa: BLE001 - it is told, whatever it is
        return traceback.format_exc()
    return ""


async def _warm_up(directory: Path) -> None:
    """Let everything be imported that is imported on first use: an unprivileged user may not be able to."""
    async with scene(directory, pause=60) as on, on.refresher() as here:
        await here.save_tokens("alice", login(on.fake, "alice", life_left=-1))
        await here.get_valid_token("alice")


def _main(name: str, directory: Path) -> None:
    trouble = TROUBLES[name]
    asyncio.run(_warm_up(directory / "warm-up"))
    if trouble.process == "mounting":
        run("mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE},nr_inodes={DISK_INODES},mode=0700", "tmpfs", directory)
    if trouble.process == "unprivileged" and not os.getuid():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    told = {
        behaviour.__name__: _outcome(behaviour, trouble, directory / str(number) / "tokens")
        for number, behaviour in enumerate(behaviours(trouble))
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
