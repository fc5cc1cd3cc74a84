"""A cron job that renews the tokens of all users in a file store, and lists the users who have to log in again.

    uv run python examples/sweep.py DIRECTORY ISSUER --within 86400

It reads the client's credentials from the environment: CLIENT_ID and, unless the client is public, CLIENT_SECRET. The
exit status is 1 if a user has to log in again or a renewal failed, and 2 if an argument or CLIENT_ID is wrong or
missing.
"""

import argparse
import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tokenflight import (
    ClientAuthentication,
    ClientSecretBasic,
    FileTokenStore,
    OIDCProvider,
    PublicClient,
    ReauthenticationRequired,
    TokenflightError,
    TokenRefresher,
)


async def sweep(refresher: TokenRefresher, console: Console, *, within: float) -> Counter[str]:
    """Renew each token set that is due `within` so many seconds, and count the outcomes."""
    counts = Counter[str]()
    # A sweep learns the number of users only at its end, so that a progress bar would have no length.
    columns = (SpinnerColumn(), TextColumn("{task.completed} users"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        users = progress.add_task("", total=None)
        async for outcome in refresher.sweep(within=within):
            if isinstance(outcome.error, ReauthenticationRequired):
                counts["to log in again"] += 1
            elif outcome.error is not None:
                counts["failed"] += 1
            else:
                counts["renewed" if outcome.renewed else "not due"] += 1
            if outcome.error is not None:
                console.print(f"{outcome.user_id!r}: {outcome.error}", markup=False, highlight=False, soft_wrap=True)
            progress.advance(users)
    return counts


async def main(directory: Path, issuer: str, client: ClientAuthentication, *, within: float) -> int:
    """Sweep, print a summary, and return the exit status."""
    console = Console()
    try:
        async with TokenRefresher(OIDCProvider(issuer, client), FileTokenStore(directory)) as refresher:
            counts = await sweep(refresher, console, within=within)
    except TokenflightError as error:  # the store can't list its users, or can't store a renewed token set
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    kinds = ("renewed", "not due", "to log in again", "failed")
    console.print(f"{counts.total()} users: {', '.join(f'{counts[kind]} {kind}' for kind in kinds)}", highlight=False)
    return 1 if counts["to log in again"] or counts["failed"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Renew each token set in a file store that is due.")
    parser.add_argument("directory", type=Path, help="of the file store")
    parser.add_argument("issuer", help="the provider's issuer, an https URL")
    parser.add_argument("--within", type=float, default=0.0, metavar="SECONDS", help="renew what is due within SECONDS")
    arguments = parser.parse_args()
    if not arguments.directory.is_dir():
        parser.error(f"{arguments.directory} is no directory")
    client_id, secret = os.environ.get("CLIENT_ID"), os.environ.get("CLIENT_SECRET")
    if not client_id:
        parser.error("CLIENT_ID is not set")
    client = PublicClient(client_id) if secret is None else ClientSecretBasic(client_id, secret)
    sys.exit(asyncio.run(main(arguments.directory, arguments.issuer, client, within=arguments.within)))
