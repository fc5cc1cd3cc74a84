"""A MariaDB server for tests, from the system's package `mariadb-server`."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

UNPRIVILEGED_USER: Final = "nobody"
"""The user that runs the server if the tests run as root, because MariaDB refuses to."""

TIME_ZONE: Final = "Europe/Berlin"
"""The server's own time zone, in which an hour comes twice at the end of summer time."""


class MariaDBServer:
    """A server in a directory of its own, on a free port of 127.0.0.1."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        user = [f"--user={UNPRIVILEGED_USER}"] if os.geteuid() == 0 else []
        self._options = ["--no-defaults", f"--datadir={directory / 'data'}", f"--tmpdir={directory}", *user]
        installed = subprocess.run(
            [
                *(_program("mariadb-install-db"), *self._options),
                *("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
            ],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if installed.returncode:
            raise RuntimeError(f"mariadb-install-db failed: {installed.stdout.decode()}")

    def url(self, driver: str, *, user: str = "app") -> str:
        """The server's URL for SQLAlchemy and `driver`. The user root may also do what concerns the whole server."""
        return f"mysql+{driver}://{user}@127.0.0.1:{self.port}/tokenflight"

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        first_statements = self._directory / "init.sql"
        first_statements.write_text(
            "create database if not exists tokenflight character set latin1;\n"
            "create user if not exists app@127.0.0.1;\n"
            "grant all on tokenflight.* to app@127.0.0.1;\n"
        )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(_program("mariadbd"), *self._options, f"--socket={self._directory / 'socket'}"),
                    *("--bind-address=127.0.0.1", f"--port={self.port}", "--skip-name-resolve"),
                    *("--innodb-flush-log-at-trx-commit=0", f"--init-file={first_statements}"),
                ],
                cwd=self._directory,
                env={**os.environ, "TZ": TIME_ZONE},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mariadbd did not start: {self._log.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop at once, cutting all connections off."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)


@contextmanager
def mariadb_server() -> Iterator[MariaDBServer]:
    """A running server for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="tokenflight-mariadb-") as name:
        if os.geteuid() == 0:
            os.chown(name, pwd.getpwnam(UNPRIVILEGED_USER).pw_uid, -1)
        server = MariaDBServer(Path(name))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise RuntimeError(f"this test needs `{name}`: install the package `mariadb-server` of the system")
    return found
