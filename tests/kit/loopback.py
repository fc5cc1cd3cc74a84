"""A small server on a loopback socket, to see the very bytes that arrive and to answer with any bytes at all.

Beside it, the client to be tested on it.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import pytest

from tokenflight.errors import TokenRefreshError
from tokenflight.providers._http import ProviderClient
from tokenflight.providers.grants import refresh_token_grant
from tokenflight.providers.requests import Request, build_token_request

SECONDS: Final = 10.0
"""Longer than any of these exchanges takes."""

BRIEF_SECONDS: Final = 0.3
"""For exchanges that are meant to run out of time."""

REFRESH_TOKEN: Final = "rt-canary-0123"
CLIENT_SECRET: Final = "cs-canary-0123"

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """What reached a server on a loopback socket, and how it answers."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.url = ""
        self.connections = 0
        self.requests: list[bytes] = []
        self.disconnects = 0
        self._news = asyncio.Condition()
        self.closing = asyncio.Event()
        """What an answer that never comes waits for."""

    @property
    def request(self) -> bytes:
        """The one request that arrived."""
        [only] = self.requests
        return only

    async def received(self, number: int) -> None:
        """Wait until `number` whole requests have arrived."""
        async with self._news, asyncio.timeout(SECONDS):
            await self._news.wait_for(lambda: len(self.requests) >= number)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until it is closed."""
        self.connections += 1
        try:
            while not self.closing.is_set():
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                async with self._news:
                    self.requests.append(head + body)
                    self._news.notify_all()
                await self.answer(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.disconnects += 1
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: Answer, *, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Server]:
    """A server that gives each request, once it is there as a whole, to `answer`."""
    server = Server(answer)
    conversations: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations[writer] = asyncio.current_task()
        await server.converse(reader, writer)

    listener = await asyncio.start_server(converse, "127.0.0.1", port, ssl=tls)
    scheme = "http" if tls is None else "https"
    server.url = f"{scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}/token"
    try:
        yield server
    finally:
        server.closing.set()
        listener.close()
        for writer, conversation in conversations.items():
            writer.transport.abort()
            if conversation is not None:
                await conversation


def unused_port_url() -> str:
    """The URL of a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/token"


def http_reply(body: bytes = b"{}", status: str = "200 OK", *headers: str) -> bytes:
    """A whole reply as it goes over the wire."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def answering(reply: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(reply)

    return answer


def answering_then_closing(reply: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()
        writer.close()

    return answer


async def resetting(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def refresh_at(url: str) -> Request:
    """A refresh request with secrets in it."""
    request = build_token_request(url, refresh_token_grant(REFRESH_TOKEN))
    return request.adding(parameters={"client_id": "app", "client_secret": CLIENT_SECRET}, secrets=[CLIENT_SECRET])


@asynccontextmanager
async def provider_client(
    given: httpx.AsyncClient | None = None, *, timeout: float = SECONDS
) -> AsyncIterator[ProviderClient]:
    client = ProviderClient("idp", given, timeout=timeout)
    try:
        yield client
    finally:
        await client.aclose()


async def error_at(url: str, given: httpx.AsyncClient | None = None, *, timeout: float = SECONDS) -> TokenRefreshError:
    """The error that a refresh request to `url` ends in."""
    async with provider_client(given, timeout=timeout) as client:
        with pytest.raises(TokenRefreshError) as caught:
            await client.send(refresh_at(url), user_id="alice")
    assert (caught.value.user_id, caught.value.provider) == ("alice", "idp")
    return caught.value
