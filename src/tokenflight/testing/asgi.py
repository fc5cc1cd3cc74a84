"""The part of ASGI 3 that a fake provider needs."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import httpx

from tokenflight.testing.faults import Endpoint
from tokenflight.testing.replies import Reply

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class ConnectionDropped(httpx.RemoteProtocolError):
    """The connection ends without a reply.

    httpx raises the same error when a server closes the connection. `httpx.ASGITransport` passes this one on, so a
    client can't tell the difference. On a real socket the server closes the connection instead.
    """

    def __init__(self) -> None:
        super().__init__("Server disconnected without sending a response.")


@dataclass
class Request:
    """A complete request. `user_id` is the user of the token in it, or None where unknown."""

    endpoint: Endpoint
    method: str
    headers: Mapping[bytes, bytes]
    body: bytes
    user_id: str | None = None

    @cached_property
    def form(self) -> Mapping[str, str] | None:
        """The parameters of the posted form; None if there is none, or if a parameter comes twice (RFC 6749 §3.2)."""
        content_type = self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if self.method != "POST" or content_type != b"application/x-www-form-urlencoded":
            return None
        pairs = parse_qsl(self.body.decode("latin-1"))
        form = dict(pairs)
        return form if len(form) == len(pairs) else None

    def credentials(self, scheme: str) -> str | None:
        """Return the credentials of the ``Authorization`` header (RFC 9110 §11.4) if it has `scheme`, else None.

        `scheme` is in lower case.
        """
        given, _, credentials = self.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        return credentials.strip() if given.lower() == scheme else None


async def read_body(receive: Receive) -> bytes | None:
    """Read the body of a request; None if the client went away before its end."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


async def send_reply(reply: Reply, send: Send) -> None:
    """Send the whole of `reply`."""
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})


async def serve_lifespan(receive: Receive, send: Send) -> None:
    """Answer the server's lifespan messages until it shuts down."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
