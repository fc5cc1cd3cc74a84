"""The fake provider on a real socket. The one module that needs uvicorn."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tokenflight.testing.asgi import ASGIApp, ConnectionDropped, Receive, Scope, Send

BACKLOG: Final = 2048
"""How many connections may wait to be accepted."""

KEEP_ALIVE_SECONDS: Final = 600
"""Longer than a client keeps an idle connection, so that the server closes none while a request is on its way."""

_TURNS_TO_ACCEPT: Final = 3
"""After so many turns of the event loop, the server knows each connection that was accepted before."""


@asynccontextmanager
async def serve_on_loopback(app: ASGIApp, *, cancel_requests: Callable[[], None]) -> AsyncIterator[str]:
    """Serve `app` on a free port of 127.0.0.1 and give the base URL.

    At exit every connection is closed; `cancel_requests` has to end the requests that `app` is working on.
    """
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        backlog=BACKLOG,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with _listener() as listener:
        # Not server.serve(): it takes over the process's signals, logs, and takes a fifth of a second to stop.
        await server.startup(sockets=[listener])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with suppress(NotImplementedError):  # on Windows
                # asyncio leaks a connection that it is about to accept when its server is closed: stop, wait, close.
                asyncio.get_running_loop().remove_reader(listener)
            for _ in range(_TURNS_TO_ACCEPT):
                await asyncio.sleep(0)
            for accepting in server.servers:
                accepting.close()
            state = server.server_state
            while state.connections or state.tasks:
                for connection in state.connections:
                    connection.transport.abort()
                cancel_requests()
                await asyncio.sleep(0)


def _listener() -> socket.socket:
    # Not create_server: asyncio turns Nagle's algorithm off only where the socket names its protocol, and with it on a
    # reply may wait 40 ms for an acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class _Connection(H11Protocol):
    """A connection that the app can drop by raising `ConnectionDropped`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False  # Config's setting of this name would silence an app under test, too
        self._app = self.app
        self.app = self._run

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except (ConnectionDropped, asyncio.CancelledError):
            self.transport.abort()
            # For an app that ends without a reply before that is known, uvicorn logs an error and sends a 500.
            while (await receive())["type"] != "http.disconnect":
                pass
