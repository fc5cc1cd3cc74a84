"""A token endpoint that costs next to nothing, in a process of its own: ``python loopback_server.py``.

It answers each HTTP/1.1 request with the same token set.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_BODY: Final = json.dumps(
    {
        "access_token": "access-" + "a" * 800,
        "refresh_token": "refresh-" + "r" * 200,
        "expires_in": 3600,
        "token_type": "Bearer",
    }
).encode()
_REPLY: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


@contextmanager
def token_endpoint() -> Iterator[str]:
    """Run an endpoint for as long as the context lasts; yield its URL."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None  # for type checkers
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/token"
        finally:
            server.kill()


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # for type checkers
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end_of_head := self._received.find(b"\r\n\r\n")) >= 0:
            length = _CONTENT_LENGTH.search(self._received, 0, end_of_head)
            end = end_of_head + 4 + (int(length[1]) if length else 0)
            if len(self._received) < end:
                return
            self._received = self._received[end:]
            assert self._transport is not None  # for type checkers
            self._transport.write(_REPLY)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
