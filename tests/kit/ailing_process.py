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
    TokenSet,
)


class AilingProvider(OIDCProvider):
    """The disk gets into trouble between its reply and the write."""

    def __init__(self, issuer: str, bad: ExitStack) -> None:
        super().__init__(issuer, ClientSecretBasic("app", "s3cret"))
        self._bad = bad

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        renewed = await super().renew(user_id, tokens)
        self._bad.enter_context(file_size_limit(Path()))
        return renewed


async def main(issuer: str, directory: Path) -> None:
    events: list[TokenEvent] = []
    bad = ExitStack()
    provider = AilingProvider(issuer, bad)
    async with TokenRefresher(provider, FileTokenStore(directory), on_event=events.append) as refresher:
        with bad:
            await refresher.get_valid_token("alice")
            await until_told(events, SaveFailed)
            print("unsaved", flush=True)  # noqa: T201
            await asyncio.to_thread(sys.stdin.readline)
        await until_told(events, SaveRecovered)
        print("saved", flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
