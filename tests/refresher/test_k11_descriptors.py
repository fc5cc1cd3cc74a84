"""K11: a process without descriptors loses no token set, and recovers by itself."""

import asyncio
from pathlib import Path
from typing import Final

from kit import crowded_process
from kit.support import login
from kit.workers import line_of, worker
from tokenflight import FileTokenStore, StoredTokens, TokenKey
from tokenflight.testing import FakeProvider

USERS: Final = 300


async def test_k11_a_process_with_64_descriptors_renews_300_users_and_loses_none(
    fake: FakeProvider, tmp_path: Path
) -> None:
    async with fake.serve() as issuer:
        store = FileTokenStore(tmp_path)
        keys = {f"user{number}": TokenKey(issuer, f"user{number}") for number in range(USERS)}
        await asyncio.gather(
            *(
                store.save(key, StoredTokens(login(fake, user_id, life_left=-1), issuer=issuer))
                for user_id, key in keys.items()
            )
        )
        async with worker(crowded_process, issuer, str(tmp_path), str(USERS)) as process:
            met = set((await line_of(process)).split())
            assert "StoreUnavailable" in met
            assert met <= {"StoreUnavailable", "ProviderUnavailable"}  # the sockets are short of descriptors too
            assert await process.wait() == 0
        for user_id, key in keys.items():
            record = await store.load(key)
            assert record is not None
            assert record.tokens.refresh_token == fake.current_refresh_token(user_id)
        await store.aclose()
    assert fake.reuses() == 0
