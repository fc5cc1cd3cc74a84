"""Caches in which several tables refer to each other: MSAL's, and that of the Google Cloud CLI."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tokenflight._redaction import Secret
from tokenflight.errors import StoreCorrupted, StoreUnavailable
from tokenflight.importers._source import (
    ImportedTokens,
    Source,
    StrPath,
    entry,
    imported,
    mapping_in,
    parsed,
    path_of,
)

_GRANT: Final = ("home_account_id", "environment", "client_id")
"""What the refresh token, the ID token and the access tokens of one grant have in common in MSAL's cache."""

_ACCOUNTS: Final = "SELECT account_id, value FROM credentials"
_ACCESS_TOKENS: Final = "SELECT account_id, access_token, token_expiry, id_token FROM access_tokens"


def from_msal(source: Source) -> list[ImportedTokens]:
    """MSAL's token cache: one entry for each refresh token, which is that of an account for one client.

    The user is the name of the account, or else its ``home_account_id``, and the provider is the environment, such as
    ``login.microsoftonline.com``. What has no refresh token is left out.
    """
    # Seen in its source, and the same in MSAL for other languages: a table for each kind of credential, with secret,
    # target, cached_at, expires_on and refresh_on; times are numbers as text.
    cache = mapping_in(source, "MSAL")
    return [found for grant in _items(cache, "RefreshToken") for found in _msal_grant(cache, grant)]


def from_gcloud(directory: StrPath) -> list[ImportedTokens]:
    """The users in the configuration directory of the Google Cloud CLI, ``~/.config/gcloud``.

    Its service accounts are left out. Application default credentials are for `from_google`.
    """
    # Seen in its source: credentials.db has JSON with refresh_token by account, and access_tokens.db what it was
    # renewed to, with token_expiry in UTC. Both are SQLite's.
    path = path_of(directory)
    if path is None or not path.is_dir():
        raise StoreUnavailable(f"{directory!r:.200} is not the configuration directory of the Google Cloud CLI")
    renewed = {account: values for account, *values in _select(path / "access_tokens.db", _ACCESS_TOKENS)}
    found: list[ImportedTokens] = []
    for account, value in _select(path / "credentials.db", _ACCOUNTS):
        credentials = entry(parsed(value or ""))
        if credentials.get("refresh_token"):
            times = dict(zip(("access_token", "token_expiry", "id_token"), renewed.get(account, ()), strict=False))
            found += imported({**credentials, **times}, user=account, without={"type"})
    return found


def _items(cache: Mapping[str, object], table: str) -> Iterator[Mapping[str, object]]:
    return map(entry, entry(cache.get(table)).values())


def _msal_grant(cache: Mapping[str, object], grant: Mapping[str, object]) -> list[ImportedTokens]:
    """The grant of one refresh token, with what else in the cache belongs to it."""

    def of_grant(table: str, *columns: str) -> list[Mapping[str, object]]:
        return [item for item in _items(cache, table) if all(item.get(name) == grant.get(name) for name in columns)]

    account = grant.get("home_account_id")
    usernames = [item.get("username") for item in of_grant("Account", "home_account_id", "environment")]
    fields = {
        "refresh_token": grant.get("secret"),
        "id_token": next((item.get("secret") for item in of_grant("IdToken", *_GRANT)), None),
        "home_account_id": account,
        "client_id": grant.get("client_id"),
    }
    access_tokens = [_msal_access_token(item) for item in of_grant("AccessToken", *_GRANT)]
    if len(access_tokens) == 1:
        fields |= access_tokens.pop()
    others = tuple(found.tokens for others in access_tokens for found in imported(others))
    user = next(filter(None, usernames), account)
    return [
        replace(found, access_tokens=others) for found in imported(fields, user=user, provider=grant.get("environment"))
    ]


def _msal_access_token(item: Mapping[str, object]) -> dict[str, object]:
    names = {"access_token": "secret", "scope": "target"}
    members = ("access_token", "scope", "token_type", "cached_at", "expires_on", "refresh_on")
    return {member: item.get(names.get(member, member)) for member in members}


def _select(path: Path, query: str) -> list[list[str | None]]:
    """The texts that `query` finds in the SQLite database at `path`, hidden; none where there is no such file."""
    if not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            return [[_hidden_text(value) for value in row] for row in database.execute(query)]
    except sqlite3.Error as exc:
        raise StoreCorrupted(f"{path} can't be read as a database of the Google Cloud CLI: {exc}") from exc


def _hidden_text(value: object) -> str | None:
    if isinstance(value, bytes):
        return Secret(value.decode("utf-8", "replace"))
    return None if value is None else Secret(value)
