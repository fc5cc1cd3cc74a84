"""A worker process of the demo: an app of its own on the same store.

    python -m tokenflight.cli.demo._worker DIRECTORY ISSUER API_URL USER_ID CALLS

It makes CALLS API calls at once. It prints a line when it has found the stored token expired and waits for the lease.
At the end it prints its `Tally` as JSON.
"""

import asyncio
import json
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict

from tokenflight import FileTokenStore, TokenAdopted, TokenEvent, TokenKey, TokenRefresher
from tokenflight.cli.demo._calls import Tally, api_client, app_provider, call_api
from tokenflight.stores import Lease


class _AnnouncingStore(FileTokenStore):
    """Tells the parent process when this process is about to wait for the lease."""

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        if timeout:  # the refresher first tries without waiting, with a timeout of 0
            sys.stdout.write("asking for the lease\n")
            sys.stdout.flush()
        return super().lease(key, timeout=timeout)


async def work(directory: str, issuer: str, api_url: str, user_id: str, calls: str) -> Tally:
    """Make `calls` API calls at once."""
    events: list[TokenEvent] = []
    async with (
        api_client() as api,
        app_provider(issuer) as provider,
        TokenRefresher(provider, _AnnouncingStore(directory), on_event=events.append) as refresher,
    ):
        problems = await asyncio.gather(*(call_api(api, api_url, refresher, user_id) for _ in range(int(calls))))
    return Tally.of_calls(problems, adopted=sum(isinstance(event, TokenAdopted) for event in events))


if __name__ == "__main__":
    json.dump(asdict(asyncio.run(work(*sys.argv[1:]))), sys.stdout)
