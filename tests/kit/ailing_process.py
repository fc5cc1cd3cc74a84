"""A process whose disk takes nothing: it renews a user at the provider named, and can't store it until it is mended.

Its arguments are the issuer and the directory. It says on standard output what it lives through; a line on standard
input mends the disk.
"""

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path

from kit.disks import file_size_limit
from kit.support import until_told
from tokenflight import (
    ClientSecretBasic,
    FileTokenStore,
    OIDCProvider,
    SaveFailed,
    SaveRecovered,
    TokenEvent,
    TokenRefresher,
)


async def main(issuer: str, directory: Path) -> None:
    events: list[TokenEvent] = []
    provider = OIDCProvider(issuer, ClientSecretBasic("app", "s3cret"))
    async with TokenRefresher(provider, FileTokenStore(directory), on_event=events.append) as refresher:
        with ExitStack() as bad:
            bad.enter_context(file_size_limit(directory))
            await refresher.get_valid_token("alice")
            await until_told(events, SaveFailed)
            print("unsaved", flush=True)  # noqa: T201
            await asyncio.to_thread(sys.stdin.readline)
        await until_told(events, SaveRecovered)
        print("saved", flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
