"""P1, P7: a disk in trouble costs no user a login, and nobody an answer that could be given."""

import os
import tempfile
from functools import cache
from pathlib import Path

import pytest

from kit import ailing_process, disk_scenes
from kit.disk_scenes import Behaviour, behaviours
from kit.disks import TROUBLES, Trouble, mounting
from kit.support import login
from kit.workers import line_of, worker
from tokenflight import (
    ClientSecretBasic,
    FileTokenStore,
    LeaseTimeout,
    OIDCProvider,
    TokenAdopted,
    TokenEvent,
    TokenRefresher,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import FakeProvider


def cases(*, here: bool) -> list[tuple[str, Behaviour]]:
    """Each trouble that can be made `here`, or that takes a process of its own, with each behaviour under it."""

    def is_possible(trouble: Trouble) -> bool:
        if trouble.process == "mounting" and not mounting():
            return False  # a file size limit and a directory without permissions stand in for it
        return (trouble.process == "this one") is here

    return [
        (name, behaviour)
        for name, trouble in TROUBLES.items()
        if is_possible(trouble)
        for behaviour in behaviours(trouble)
    ]


def in_words(value: str | Behaviour) -> str:
    return value if isinstance(value, str) else value.__name__.replace("_", " ")


@cache
def outcomes(name: str) -> dict[str, str]:
    """What came of the behaviours under the trouble `name`, in one process: starting it takes longer than they do."""
    with tempfile.TemporaryDirectory() as directory:  # not tmp_path: an unprivileged user can't get to it
        if not os.getuid():
            os.chown(directory, disk_scenes.NOBODY, disk_scenes.NOBODY)
        return disk_scenes.outcomes(name, Path(directory))


@pytest.mark.parametrize(("name", "behaviour"), cases(here=True), ids=in_words)
async def test_p1_p7_in_trouble(name: str, behaviour: Behaviour, tmp_path: Path) -> None:
    await behaviour(TROUBLES[name], tmp_path / "tokens")


@pytest.mark.parametrize(("name", "behaviour"), cases(here=False), ids=in_words)
def test_p1_p7_in_trouble_that_strikes_a_whole_process(name: str, behaviour: Behaviour) -> None:
    traceback = outcomes(name)[behaviour.__name__]
    assert not traceback, traceback


async def test_p1_while_one_process_can_not_store_no_other_sends_the_spent_token_and_then_it_adopts(
    fake: FakeProvider, events: list[TokenEvent], tmp_path: Path
) -> None:
    async with fake.serve() as issuer:
        provider = OIDCProvider(issuer, ClientSecretBasic("app", "s3cret"))
        async with TokenRefresher(
            provider, FileTokenStore(tmp_path), on_event=events.append, _limits=Limits(lease_timeout=0.05)
        ) as here:
            await here.save_tokens("alice", login(fake, "alice", life_left=-1))
            async with worker(ailing_process, issuer, str(tmp_path)) as process:
                assert await line_of(process) == "unsaved"
                for _ in range(2):
                    with pytest.raises(LeaseTimeout):
                        await here.get_valid_token("alice")
                assert process.stdin is not None
                process.stdin.write(b"mended\n")
                assert await line_of(process) == "saved"
                assert await process.wait() == 0
            adopted = await here.get_valid_token("alice")
    assert adopted.refresh_token == fake.current_refresh_token("alice")
    assert isinstance(events[-1], TokenAdopted)
    assert (fake.requests(), fake.reuses()) == (1, 0)
