"""The suite that every store passes: run it on the one you write.

It needs no test framework of its own. Its tests are coroutine methods; the runner of your own suite runs them.
"""

from abc import ABC

from tokenflight.testing.conformance._cancellation import CancellationTests
from tokenflight.testing.conformance._leases import LeaseTests
from tokenflight.testing.conformance._logouts import LogoutTests
from tokenflight.testing.conformance._records import RecordTests
from tokenflight.testing.conformance._replacements import ReplacementTests

__all__ = ["StoreConformance"]


class StoreConformance(RecordTests, ReplacementTests, LogoutTests, LeaseTests, CancellationTests, ABC):
    """The contract of `TokenStore`, a test for each line of it. Subclass it in your test suite and open your store.

    ::

        class TestMyStore(StoreConformance):
            @pytest.fixture(autouse=True)
            def empty_database(self, tmp_path):
                self.path = tmp_path / "tokens.db"

            @asynccontextmanager
            async def open_store(self):
                store = MyStore(self.path)
                yield store
                await store.aclose()

    Any runner of coroutine tests will do, such as pytest-asyncio or the plugin of anyio. To see the compared values of
    a failure, put ``pytest.register_assert_rewrite("tokenflight.testing.conformance")`` into ``conftest.py``
    before the first import of this module.

    The suite can't pull the plug. Test yourself that a write is durable, and that the lease of a killed process
    becomes free.
    """
