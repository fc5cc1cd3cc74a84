"""A router that stands in for providers, and an HTTP client that reaches nothing else."""

from collections.abc import AsyncIterator

import httpx
import pytest
import respx


@pytest.fixture
def router() -> respx.MockRouter:
    return respx.MockRouter(assert_all_called=False)


@pytest.fixture
async def http_client(router: respx.MockRouter) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(router.async_handler)) as client:
        yield client
