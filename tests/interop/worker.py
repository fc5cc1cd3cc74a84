"""One of several processes that share a file store: asks for one user's token many times at once.

    python worker.py ISSUER CLIENT_ID DIRECTORY USER_ID CALLERS

Prints a line when it is ready, waits for a line, then prints the access tokens it got as JSON.
"""

import asyncio
import json
import sys

from tokenflight import FileTokenStore, OIDCProvider, PublicClient, TokenRefresher


async def main(issuer: str, client_id: str, directory: str, user_id: str, callers: str) -> None:
    provider = OIDCProvider(issuer, PublicClient(client_id))
    async with TokenRefresher(provider, FileTokenStore(directory)) as refresher:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        results = await asyncio.gather(*(refresher.get_valid_token(user_id) for _ in range(int(callers))))
    json.dump([tokens.access_token for tokens in results], sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
