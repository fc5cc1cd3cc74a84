"""Two processes on one store: a login in one wins over the first record that the other is about to write."""

import json
import time
from dataclasses import asdict
from typing import Final

import pytest

from kit import held_process
from kit.held_process import FIRST_WRITES, USER, NeedsNoRefreshToken
from kit.storms.stores import StoreSpec, make_store
from kit.workers import line_of, worker
from tokenflight import LeaseTimeout, TokenKey, TokenRefresher, TokenSet

KEY: Final = TokenKey(NeedsNoRefreshToken().name, USER)


@pytest.mark.parametrize("spec", ["files", "Redis", "PostgreSQL", "SQLite"], indirect=True)
@pytest.mark.parametrize("first_write", [first_write.__name__ for first_write in FIRST_WRITES])
async def test_x10_a_login_here_is_not_overwritten_by_the_first_record_that_another_process_is_about_to_write(
    spec: StoreSpec, first_write: str
) -> None:
    store = await make_store(spec)
    login = TokenSet("of the login", refresh_token="of the login", issued_at=time.time(), expires_at=time.time() + 3600)
    async with (
        TokenRefresher(NeedsNoRefreshToken(), store) as here,
        worker(held_process, json.dumps(asdict(spec)), first_write) as there,
    ):
        assert await line_of(there) == "about to write"
        with pytest.raises(LeaseTimeout):  # the other process has read under the lease that there is no record
            await store.lease(KEY, timeout=0).__aenter__()
        await here.save_tokens(USER, login)
        written = await store.load(KEY)
        printed, _ = await there.communicate(b"write\n")
        assert there.returncode == 0
        assert TokenSet.from_dict(json.loads(printed)) == login
        assert await store.load(KEY) == written
        assert written is not None
        assert written.tokens == login
        assert await here.get_valid_token(USER) == login
