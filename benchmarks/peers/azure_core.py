"""azure-core: the policy through which every Azure client uses an azure-identity credential."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.policies import AsyncBearerTokenCredentialPolicy
from azure.core.rest import HttpRequest

from benchmarks.peers.azure_identity import open_credential
from benchmarks.peers.base import API_URL, SCOPE, Session
from benchmarks.provider import Login


@asynccontextmanager
async def open_session(login: Login) -> AsyncIterator[Session]:
    """Open a policy that has its first token."""
    async with open_credential(login) as credential:
        policy = AsyncBearerTokenCredentialPolicy(credential, SCOPE)
        await policy.on_request(_request())

        async def ask() -> str:
            await policy.on_request(request := _request())
            header: str = request.http_request.headers["Authorization"]
            return header.removeprefix("Bearer ")

        async def repeat(count: int) -> None:
            request = _request()
            for _ in range(count):
                await policy.on_request(request)

        yield Session(ask=ask, repeat=repeat)


def _request() -> Any:
    return PipelineRequest(HttpRequest("GET", API_URL), PipelineContext(None))
