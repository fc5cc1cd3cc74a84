"""What stores send to a Redis server, as the server sees it."""

from collections.abc import Iterator
from contextlib import contextmanager

from kit.redis_server import RedisServer
from kit.stores import until


class Commands:
    """What was sent to a server while its `watched` context lasted."""

    def __init__(self, server: RedisServer) -> None:
        self.names: list[str] = []
        self._server = server

    @contextmanager
    def watched(self) -> Iterator[None]:
        with self._server.client() as client, client.monitor() as monitor:
            client.echo("begin")
            while monitor.next_command()["command"] != "ECHO begin":
                pass
            yield
            client.echo("end")
            while (seen := monitor.next_command())["command"] != "ECHO end":
                if seen["client_type"] != "lua":
                    self.names.append(seen["command"].split()[0].upper())


async def until_waiting(server: RedisServer) -> None:
    """Wait until a store listens for released leases."""
    with server.client() as client:
        await until(lambda: client.pubsub_numsub("tokenflight:released")[0][1])
