"""Rows of databases: of web apps, which hold many users.

Each function takes rows as mappings, such as SQLAlchemy's ``mappings()`` and Django's ``values()`` give; one row; or
the path of a JSON file with either. Of Django apps it also takes what ``manage.py dumpdata`` writes.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from tokenflight.importers._source import ImportedTokens, Rows, entry, imported, name, parsed, rows_in

_KEYS: Final = frozenset({"id", "pk", "user", "user_id"})


def from_authlib(source: Rows) -> list[ImportedTokens]:
    """Rows of the token model that Authlib's documentation describes: ``name`` is the provider, ``user`` the user."""
    # Documented: name, token_type, access_token, refresh_token, expires_at, and the user's key.
    return [
        found
        for row in rows_in(source, "Authlib")
        for found in imported(row, user=_user(row), provider=row.get("name"), without=_KEYS | {"name"})
    ]


def from_fastapi_users(source: Rows) -> list[ImportedTokens]:
    """Rows of the ``oauth_account`` table of FastAPI Users."""
    # Documented: oauth_name, access_token, expires_at, refresh_token, account_id, account_email, user_id.
    return [
        found
        for row in rows_in(source, "FastAPI Users")
        for found in imported(row, user=_user(row), provider=row.get("oauth_name"), without=_KEYS | {"oauth_name"})
    ]


def from_social_auth(source: Rows) -> list[ImportedTokens]:
    """Rows of Python Social Auth's ``UserSocialAuth``: the tokens are in ``extra_data``."""
    # Documented: provider, uid, user, extra_data. Seen: extra_data as JSON text, from before it was a JSON column; its
    # "expires" is a lifetime or a moment, and a lifetime counts from auth_time.
    found: list[ImportedTokens] = []
    for row in _rows_or_fixtures(source, "Python Social Auth", "usersocialauth"):
        stored = row.get("extra_data")
        extra_data = entry(parsed(stored) if isinstance(stored, str) else stored)
        found += imported(extra_data, user=_user(row), provider=row.get("provider"))
    return found


def from_django_allauth(source: Rows) -> list[ImportedTokens]:
    """Rows of django-allauth's ``SocialToken``, with columns of its account.

    From the database, ask for ``values("token", "token_secret", "expires_at", "account__user", "account__provider")``.
    Leave out providers of OAuth 1: their rows look the same, and hold no refresh token.
    """
    # Documented: token, token_secret (the refresh token with OAuth 2), expires_at, account; the account has user,
    # provider and uid.
    rows = rows_in(source, "django-allauth")
    accounts = {name(row.get("pk")): entry(row.get("fields")) for row in _fixtures(rows, "socialaccount")}
    found: list[ImportedTokens] = []
    for row in _rows_or_fixtures(rows, "django-allauth", "socialtoken"):
        joined = {column.removeprefix("account__"): row[column] for column in row if column.startswith("account__")}
        account = accounts.get(name(row.get("account"))) or joined
        fields = {column: row.get(column) for column in ("token", "token_secret", "expires_at")}
        found += imported(fields, user=_user(account), provider=account.get("provider"))
    return found


def _user(row: Mapping[str, object]) -> object:
    return row.get("user_id") if row.get("user") is None else row["user"]


def _fixtures(rows: Iterable[Mapping[str, object]], model: str) -> Iterator[Mapping[str, object]]:
    """The entries for `model`, in lower case, in what Django's ``dumpdata`` writes."""
    return (row for row in rows if str(row.get("model")).lower().rpartition(".")[2] == model)


def _rows_or_fixtures(source: Rows, program: str, model: str) -> Iterator[Mapping[str, object]]:
    """The rows of `model`: those in `source`, or the fields of its entries where it is a dump of several models."""
    rows = rows_in(source, program)
    if any("model" in row and "fields" in row for row in rows):
        return (entry(row.get("fields")) for row in _fixtures(rows, model))
    return iter(rows)
