"""K5 with two processes on one store: a logout in one keeps out the older row that the other has been offered."""

import json
import time
from dataclasses import asdict, replace
from typing import Final

import pytest

from kit import held_process
from kit.held_process import ROW, USER, NeedsNoRefreshToken, offer_a_row
from kit.stores import keys_of
from kit.storms.stores import StoreSpec, make_store
from kit.workers import line_of, worker
from tokenflight import TokenKey, TokenRefresher, TokenSet

KEY: Final = TokenKey(NeedsNoRefreshToken().name, USER)
NOW: Final = time.time()
LOGINS: Final = {
    "the grant of the row": replace(ROW, access_token="renewed since"),
    "a later grant": TokenSet("later", refresh_token="later", issued_at=NOW, expires_at=NOW + 3600),
}


@pytest.fixture(params=LOGINS)
def ended(request: pytest.FixtureRequest) -> TokenSet:
    """What the user logs out of."""
    return LOGINS[request.param]


@pytest.mark.parametrize("spec", ["files", "Redis", "PostgreSQL", "SQLite"], indirect=True)
@pytest.mark.parametrize("moment", ["before the row is offered", "between the look at the store and the write"])
async def test_k5_a_row_offered_in_another_process_does_not_undo_a_logout_here(
    spec: StoreSpec, moment: str, ended: TokenSet
) -> None:
    store = await make_store(spec)
    async with TokenRefresher(NeedsNoRefreshToken(), store) as here:

        async def log_in_and_out() -> None:
            await here.save_tokens(USER, ended)
            await here.delete_tokens(USER)

        if moment == "before the row is offered":
            await log_in_and_out()
        async with worker(held_process, json.dumps(asdict(spec)), offer_a_row.__name__) as there:
            assert await line_of(there) == "about to write"
            if moment != "before the row is offered":
                await log_in_and_out()
            printed, _ = await there.communicate(b"write\n")
        assert there.returncode == 0
        assert json.loads(printed) == {"reason": "logged_out", "requests": 0}
        assert await store.load(KEY) is None
        assert await keys_of(store) == []
        await here.save_tokens(USER, ended)  # a login wins, whatever its grant
        assert await here.load_tokens(USER) == ended
