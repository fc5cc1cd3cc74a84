"""A process with few descriptors: it renews all users at the provider named, until each has a valid token.

Its arguments are the issuer, the directory and the number of users. It says on standard output which kinds of
errors its users met.
"""

import asyncio
import logging
import resource
import sys
from pathlib import Path
from typing import Final

from tokenflight import ClientSecretBasic, FileTokenStore, OIDCProvider, TokenflightError, TokenRefresher, TokenSet

DESCRIPTORS: Final = 64


async def main(issuer: str, directory: Path, users: int) -> None:
    logging.getLogger().addHandler(logging.NullHandler())  # the errors are hundreds, and told below
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    provider = OIDCProvider(issuer, ClientSecretBasic("app", "s3cret"))
    met: set[str] = set()
    async with TokenRefresher(provider, FileTokenStore(directory)) as refresher:
        left = [f"user{number}" for number in range(users)]
        while left:
            results = await asyncio.gather(*map(refresher.get_valid_token, left), return_exceptions=True)
            for result in results:
                if not isinstance(result, TokenSet):
                    met.add(type(result).__name__ if isinstance(result, TokenflightError) else repr(result))
            left = [user for user, result in zip(left, results, strict=True) if not isinstance(result, TokenSet)]
            await asyncio.sleep(0.05)
    print(*sorted(met))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
