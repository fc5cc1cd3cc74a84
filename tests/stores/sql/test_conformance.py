"""The contract, on PostgreSQL through both of its drivers, on SQLite, on MariaDB, and as on one without upserts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from kit import sql_dialects
from kit.codecs import CODECS
from kit.sql_database import Database
from tokenflight import (
    TokenStore,
)
from tokenflight.stores.codec import JSONCodec, RecordCodec
from tokenflight.testing.conformance import StoreConformance

EACH_CODEC: Final = [
    pytest.param(codec, id=type(codec).__name__, marks=() if isinstance(codec, JSONCodec) else pytest.mark.long)
    for codec in CODECS
]


class SQLConformance(StoreConformance):
    """The shipped suite on a database."""

    database: Database
    settings: dict[str, Any]

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[TokenStore]:
        async with self.database.opened(**self.settings) as store:
            yield store


@pytest.mark.parametrize("codec", EACH_CODEC)
class TestOnPostgreSQL(SQLConformance):
    @pytest.fixture(autouse=True)
    def empty_table(self, postgres: Database, codec: RecordCodec) -> None:
        self.database, self.settings = postgres, {"codec": codec}


@pytest.mark.parametrize("codec", EACH_CODEC)
class TestOnSQLite(SQLConformance):
    @pytest.fixture(autouse=True)
    def empty_table(self, sqlite: Database, codec: RecordCodec) -> None:
        self.database, self.settings = sqlite, {"codec": codec}


@pytest.mark.external
@pytest.mark.parametrize("driver", ["asyncmy", "aiomysql"])
class TestOnMariaDB(SQLConformance):
    @pytest.fixture(autouse=True)
    def empty_table(self, driver: str, request: pytest.FixtureRequest) -> None:
        self.database, self.settings = request.getfixturevalue(driver), {}


class TestThroughPsycopg(SQLConformance):
    @pytest.fixture(autouse=True)
    def empty_table(self, postgres: Database) -> None:
        url = postgres.url.replace("postgresql+asyncpg", "postgresql+psycopg")
        self.database, self.settings = Database(url, postgres.table), {}


@pytest.mark.long
class TestWithoutUpserts(SQLConformance):
    @pytest.fixture(autouse=True)
    def empty_table(self, sqlite: Database) -> None:
        sql_dialects.register()
        url = sqlite.url.replace("sqlite+aiosqlite", "mysql+sqlite_double")
        self.database, self.settings = Database(url, sqlite.table), {}


@pytest.mark.long
class TestInTransactions(SQLConformance):
    @pytest.fixture(autouse=True)
    def empty_table(self, postgres: Database) -> None:
        self.database, self.settings = postgres, {"autocommit": False}
