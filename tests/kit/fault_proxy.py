"""A way to a provider on which things go wrong: a name, a TLS proxy behind it on a loopback socket, and a `Fault`."""

import asyncio
import contextlib
import enum
import select
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import trustme

HOST: Final = "provider.invalid"
"""Never a name of anybody's (RFC 6761 §6.4): what does not ask this module's resolver gets nowhere."""

SECONDS_PER_BYTE: Final = 0.05
"""How a reply trickles: each byte well within any timeout per read, the whole of it outside all patience."""

_EXPIRED_AT: Final = datetime(2020, 1, 1, tzinfo=UTC)
_MORE_THAN_ANY_BACKLOG: Final = 32
_SECONDS_TO_CONNECT: Final = 0.05
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Fault(enum.Enum):
    """Where on its way an exchange ends."""

    NAME_UNKNOWN = "the name does not resolve"
    REFUSED = "the connection is refused"
    NEVER_ACCEPTED = "the connection is never accepted"
    HANDSHAKE_RESET = "the TLS handshake is reset"
    HANDSHAKE_UNANSWERED = "the TLS handshake is never answered"
    OTHER_HOST = "the certificate is another host's"
    UNKNOWN_AUTHORITY = "nobody vouches for the certificate"
    EXPIRED = "the certificate has expired"
    RESET = "reset before the request is read"
    UNANSWERED = "a black hole: read, never passed on"
    REPLY_RESET = "reset after the provider acted"
    REPLY_SWALLOWED = "the provider acts, no reply comes"
    CUT_IN_HEAD = "the reply is cut in its headers"
    CUT_IN_BODY = "the reply is cut in its body"
    TRICKLE = "the reply trickles byte by byte"


_WITHOUT_TLS: Final = frozenset({Fault.HANDSHAKE_RESET, Fault.HANDSHAKE_UNANSWERED})


class FaultProxy:
    """Passes requests on to the server at `upstream_port` of 127.0.0.1, unless a fault is in the way.

    `attempts` counts the connections tried: each begins with a look-up of the name, answered by `resolve`.
    """

    def __init__(self, authority: trustme.CA) -> None:
        self.upstream_port = 0
        self.attempts = 0
        self._authority = authority
        self._fault: Fault | None = None
        self._lifted = asyncio.Event()
        self._port = 0
        self._closing = contextlib.AsyncExitStack()
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}

    @property
    def url(self) -> str:
        """Where the provider seems to be."""
        return f"https://{HOST}:{self._port}"

    async def suffer(self, fault: Fault | None, *, keep_connections: bool = False) -> None:
        """Let `fault` happen from now on, or none. Open connections are closed, unless they are to meet it too."""
        self._fault = fault
        if keep_connections:
            return
        await self.aclose()
        self._lifted = asyncio.Event()
        match fault:
            case Fault.REFUSED:
                pass
            case Fault.NEVER_ACCEPTED:
                self._closing.enter_context(_full_listener(self._port))
            case _:
                context = None if fault in _WITHOUT_TLS else self._certified(fault)
                listener = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=context)
                self._closing.callback(listener.close)
                self._port = listener.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Listen no more, and end all connections."""
        await self._closing.aclose()
        self._lifted.set()
        for writer in self._connections:
            writer.transport.abort()
        await asyncio.gather(*filter(None, self._connections.values()))
        self._connections.clear()

    async def resolve(self, host: object, port: object, **_: object) -> list[tuple[Any, ...]]:
        """Stand in for the event loop's `getaddrinfo`: only `HOST` is known here, and it is this machine."""
        self.attempts += 1
        if host not in {HOST, HOST.encode()} or self._fault is Fault.NAME_UNKNOWN:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    def _certified(self, fault: Fault | None) -> ssl.SSLContext:
        authority = trustme.CA() if fault is Fault.UNKNOWN_AUTHORITY else self._authority
        certificate = authority.issue_cert(
            "other.invalid" if fault is Fault.OTHER_HOST else HOST,
            not_after=_EXPIRED_AT if fault is Fault.EXPIRED else None,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return context

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = asyncio.current_task()
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            if not writer.is_closing():  # in Python 3.11.2, `abort` raises on a transport closed twice
                writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Pass one request on, and its reply back, as far as the fault lets them; whether another may follow."""
        if self._suffers(Fault.HANDSHAKE_RESET, Fault.RESET):
            _reset(writer)
            return False
        if self._suffers(Fault.HANDSHAKE_UNANSWERED):
            await self._lifted.wait()
            return False
        first = await reader.readexactly(1)
        if self._suffers(Fault.RESET):  # on a connection that was there before the fault
            _reset(writer)
            return False
        request = first + await _message(reader)
        if self._suffers(Fault.UNANSWERED):
            await self._lifted.wait()
            return False
        return await self._return(await self._forwarded(request), writer)

    def _suffers(self, *faults: Fault) -> bool:
        return self._fault in faults  # looked at anew each time: it changes while an exchange waits

    async def _forwarded(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        try:
            writer.write(request)
            return await _message(reader)
        finally:
            writer.close()
            await writer.wait_closed()

    async def _return(self, reply: bytes, writer: asyncio.StreamWriter) -> bool:
        head_length = reply.index(b"\r\n\r\n") + 4
        match self._fault:
            case Fault.REPLY_RESET:
                _reset(writer)
            case Fault.REPLY_SWALLOWED:
                await self._lifted.wait()
            case Fault.CUT_IN_HEAD:
                writer.write(reply[: head_length // 2])
            case Fault.CUT_IN_BODY:
                writer.write(reply[: (head_length + len(reply)) // 2])
            case Fault.TRICKLE:
                await self._trickle(reply, writer)
            case _:
                writer.write(reply)
                await writer.drain()
                return True
        return False

    async def _trickle(self, reply: bytes, writer: asyncio.StreamWriter) -> None:
        for byte in reply:
            writer.write(bytes([byte]))
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lifted.wait(), SECONDS_PER_BYTE)
                return


@contextlib.asynccontextmanager
async def fault_proxy(authority: trustme.CA) -> AsyncIterator[FaultProxy]:
    """A proxy that listens, with a certificate by `authority` and without a fault at first."""
    proxy = FaultProxy(authority)
    await proxy.suffer(None)
    try:
        yield proxy
    finally:
        await proxy.aclose()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """A request or reply as a whole; its body is as long as it says."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return head + await reader.readexactly(int(value))
    return head


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with an RST, which throws away what is on its way."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


@contextlib.contextmanager
def _full_listener(port: int) -> Iterator[None]:
    """A listener on `port` that accepts nobody, with as many connections waiting as it has room for."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", port), backlog=0))
        for _ in range(_MORE_THAN_ANY_BACKLOG):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
            if not select.select([], [waiting], [], _SECONDS_TO_CONNECT)[1]:
                break
        else:
            raise AssertionError("this system accepts connections beyond the backlog")
        yield
