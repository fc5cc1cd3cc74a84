"""The stores that a storm can run on, each named by a few plain values that fit a command line."""

from dataclasses import dataclass
from typing import Literal, assert_never
from uuid import uuid4

from tokenflight import FileTokenStore, TokenStore


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """Which store: its kind, and the directory or URL where it is.

    Where several share a server, `name` tells them apart. `lease_duration` is in seconds.
    """

    kind: Literal["file", "redis", "sql", "sql behind a pooler"]
    location: str
    name: str = "tokens"
    lease_duration: float = 60.0


def open_store(spec: StoreSpec) -> TokenStore:
    """The store that `spec` names, the same one in every process."""
    # What only one kind needs is imported where it is opened: workers are to start fast.
    match spec.kind:
        case "file":
            return FileTokenStore(spec.location)
        case "redis":
            from tokenflight.stores.redis import RedisTokenStore

            return RedisTokenStore(spec.location, prefix=spec.name, lease_duration=spec.lease_duration)
        case "sql":
            from tokenflight.stores.sql import SQLTokenStore

            return SQLTokenStore(spec.location, table=spec.name, lease_duration=spec.lease_duration)
        case "sql behind a pooler":
            return _store_behind_a_pooler(spec)
        case _:
            assert_never(spec.kind)


async def make_store(spec: StoreSpec) -> TokenStore:
    """The store that `spec` names, ready for use by `open_store` in other processes too."""
    store = open_store(spec)
    if spec.kind.startswith("sql"):
        from tokenflight.stores.sql import SQLTokenStore

        assert isinstance(store, SQLTokenStore)
        await store.create_table()
    return store


def _store_behind_a_pooler(spec: StoreSpec) -> TokenStore:
    """A store that assumes nothing of its connections, so that each transaction may get another one."""
    from sqlalchemy import NullPool
    from sqlalchemy.ext.asyncio import create_async_engine

    from tokenflight.stores.sql import SQLTokenStore

    engine = create_async_engine(
        spec.location,
        poolclass=NullPool,
        connect_args={
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"tokenflight_{uuid4().hex}",
        },
    )
    return SQLTokenStore(engine, table=spec.name, lease_duration=spec.lease_duration, autocommit=False)
