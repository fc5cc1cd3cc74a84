"""A program without ``async with`` that is ended in the middle of a renewal.

Its arguments are the issuer, the directory of the store, and how it ends: ``waiting`` for the token until Ctrl-C comes,
``leaving`` while a renewal ahead of time goes on in the background, or ``closing`` tidily when Ctrl-C comes twice.
"""

import asyncio
import sys

from tokenflight import ClientSecretBasic, FileTokenStore, OIDCProvider, TokenRefresher


async def main(issuer: str, directory: str, ending: str) -> None:
    refresher = TokenRefresher(OIDCProvider(issuer, ClientSecretBasic("app", "s3cret")), FileTokenStore(directory))
    match ending:
        case "waiting":
            await refresher.get_valid_token("alice")
        case "leaving":
            await refresher.get_valid_token("alice")
            await asyncio.to_thread(sys.stdin.readline)
        case "closing":
            async with refresher:
                await refresher.get_valid_token("alice")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
