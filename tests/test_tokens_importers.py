"""Other programs' files with several users, or with more around the tokens, each as that program writes it."""

import base64
import json
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from kit.strategies import json_values
from tokenflight import MemoryTokenStore, StoredTokens, importers
from tokenflight.errors import StoreCorrupted, StoreUnavailable
from tokenflight.importers import ImportedTokens
from tokenflight.tokens import TokenKey, TokenSet

NOW: Final = 1_800_000_000
NINE: Final = NOW + 3600
NINE_ISO: Final = "2027-01-15T09:00:00"


@pytest.fixture(scope="module", autouse=True)
def at_now() -> Iterator[None]:
    """The clock stands still at `NOW`."""
    with time_machine.travel(NOW, tick=False):
        yield


def jwt(**claims: object) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({}, claims)]
    return f"{'.'.join(parts)}.signature"


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def tokens_of(found: list[ImportedTokens]) -> dict[tuple[str | None, str | None], TokenSet]:
    assert not any(one.access_tokens for one in found)
    return {(one.provider, one.user_id): one.tokens for one in found}


AT_NINE: Final = TokenSet("at", refresh_token="rt", expires_at=NINE)

# Rows of databases


def test_authlib() -> None:
    rows = [
        {"id": 1, "name": "github", "user_id": 7, "token_type": "bearer", "access_token": "at", "expires_at": NINE}
        | {"refresh_token": "rt"},
        {"id": 2, "name": "x", "user_id": 8, "access_token": "", "refresh_token": None},
    ]

    assert tokens_of(importers.from_authlib(rows)) == {
        ("github", "7"): TokenSet("at", "bearer", refresh_token="rt", expires_at=NINE)
    }


def test_fastapi_users() -> None:
    user = UUID("12345678-1234-5678-1234-567812345678")
    row = {"id": user, "user_id": user, "oauth_name": "google", "access_token": "at", "expires_at": NINE}
    row |= {"refresh_token": "rt", "account_id": "a1", "account_email": "alice@x.example"}

    (found,) = importers.from_fastapi_users(row)

    assert (found.provider, found.user_id) == ("google", str(user))
    assert found.tokens.extra == {"account_id": "a1", "account_email": "alice@x.example"}


@pytest.mark.parametrize("dumped", [True, False])
def test_social_auth(tmp_path: Path, dumped: bool) -> None:
    extra_data = {"access_token": "at", "refresh_token": "rt", "auth_time": NOW, "expires": 3600, "id": 5}
    rows: list[dict[str, Any]] = [
        {"user": 7, "provider": "google-oauth2", "uid": "a@x.example", "extra_data": extra_data},
        {"user": 8, "provider": "old", "uid": "8", "extra_data": json.dumps({**extra_data, "expires": NINE})},
        {"user": 9, "provider": "twitter", "uid": "9", "extra_data": {"access_token": {"oauth_token": "1"}}},
        {"user": 9, "provider": "openid", "uid": "9", "extra_data": '""'},
    ]
    if dumped:
        fixtures = [{"model": "social_django.usersocialauth", "pk": 1, "fields": row} for row in rows]
        other = {"model": "auth.user", "pk": 7, "fields": {"username": "alice"}}
        found = importers.from_social_auth(written(tmp_path / "dump.json", [other, *fixtures]))
    else:
        found = importers.from_social_auth(rows)

    tokens = TokenSet("at", refresh_token="rt", expires_at=NINE, issued_at=NOW, extra={"id": 5})
    assert tokens_of(found) == {("google-oauth2", "7"): tokens, ("old", "8"): tokens}


def test_django_allauth_from_the_database() -> None:
    row: dict[str, Any] = {"token": "at", "token_secret": "rt", "expires_at": NINE_ISO + "Z"}
    row |= {"account__user": 7, "account__provider": "google"}

    assert tokens_of(importers.from_django_allauth([row])) == {("google", "7"): AT_NINE}


@pytest.mark.parametrize("user", [7, ["7"]])
def test_django_allauth_from_a_dump(tmp_path: Path, user: object) -> None:
    account = {"user": user, "provider": "google", "uid": "1", "extra_data": {"name": "Alice"}}
    token = {"app": 1, "account": 5, "token": "at", "token_secret": "rt", "expires_at": NINE_ISO + "Z"}
    dump = [
        {"model": "socialaccount.socialtoken", "pk": 3, "fields": token},
        {"model": "socialaccount.socialaccount", "pk": 5, "fields": account},
        {"model": "socialaccount.socialaccount", "pk": 6, "fields": {**account, "user": 8}},
        {"model": "socialaccount.socialapp", "pk": 1, "fields": {"secret": "s"}},
    ]

    assert tokens_of(importers.from_django_allauth(written(tmp_path / "dump.json", dump))) == {("google", "7"): AT_NINE}


# Files of one user


def test_google_token_json(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "token": "at",
        "refresh_token": "rt",
        "token_uri": "https://x.example",
        "client_id": "app",
    }
    content |= {"client_secret": "s", "scopes": ["a", "b"], "account": "alice", "expiry": NINE_ISO + ".123456Z"}

    found = tokens_of(importers.from_google(written(tmp_path / "token.json", content)))

    extra = {"token_uri": "https://x.example", "client_id": "app"}
    assert found == {
        (None, "alice"): TokenSet("at", refresh_token="rt", scope="a b", expires_at=NINE + 0.123456, extra=extra)
    }


def test_google_application_default_credentials(tmp_path: Path) -> None:
    content = {"account": "", "client_id": "app", "client_secret": "s", "refresh_token": "rt"}
    content |= {"type": "authorized_user", "universe_domain": "googleapis.com"}
    path = written(tmp_path / "application_default_credentials.json", content)

    (found,) = importers.from_google(str(path))

    assert (found.tokens.access_token, found.tokens.refresh_token, found.user_id) == ("", "rt", None)


def test_a_google_service_account_has_no_tokens() -> None:
    assert importers.from_google({"type": "service_account", "private_key": "k", "client_email": "x"}) == []


@pytest.mark.parametrize(
    "content",
    [
        {"access_token": "at", "token_type": "Bearer", "expires_in": 3600, "scope": "a", "refresh_token": "rt"},
        {"tokens": {"access_token": "at", "expires_in": 3600, "scope": "a", "refresh_token": "rt"}, "client_info": {}},
    ],
)
def test_the_mcp_sdk_tells_a_lifetime_without_its_beginning(content: dict[str, object]) -> None:
    assert tokens_of(importers.from_mcp(content)) == {
        (None, None): TokenSet("at", refresh_token="rt", scope="a", expires_at=0)
    }


def test_an_app_on_the_mcp_sdk_that_stores_the_expiry_itself() -> None:
    content = {"tokens": {"access_token": "at", "expires_in": 3600, "refresh_token": "rt"}, "expires_at": float(NINE)}

    assert tokens_of(importers.from_mcp(content)) == {(None, None): AT_NINE}


@pytest.mark.parametrize(("name", "user"), [(".cache", None), (".cache-alice", "alice"), ("spotify.json", None)])
def test_spotipy(tmp_path: Path, name: str, user: str | None) -> None:
    content = {"access_token": "at", "token_type": "Bearer", "expires_in": 3600, "scope": "a", "expires_at": NINE}
    path = written(tmp_path / name, content | {"refresh_token": "rt"})

    assert tokens_of(importers.from_spotipy(path)) == {
        (None, user): TokenSet("at", refresh_token="rt", scope="a", expires_at=NINE)
    }


def test_the_aws_cli(tmp_path: Path) -> None:
    client = {"clientId": "app", "clientSecret": "s", "registrationExpiresAt": "2027-04-15T08:00:00Z"}
    start = "https://x.example/start"
    session = {"startUrl": start, "region": "eu-central-1", "accessToken": "at", "expiresAt": NINE_ISO + "Z"}
    written(tmp_path / "0a1b.json", session | client | {"refreshToken": "rt"})
    written(tmp_path / "0c2d.json", session | {"startUrl": "https://old.example", "expiresAt": NINE_ISO + "UTC"})
    written(tmp_path / "botocore-client-id-eu-central-1.json", {"clientId": "app", "expiresAt": NINE_ISO + "Z"})

    found = tokens_of(importers.from_aws_sso(tmp_path))

    assert {key: (one.refresh_token, one.expires_at) for key, one in found.items()} == {
        (start, None): ("rt", NINE),
        ("https://old.example", None): (None, NINE),
    }
    assert "clientSecret" not in found[start, None].extra


def test_opencode(tmp_path: Path) -> None:
    content = {
        "anthropic": {"type": "oauth", "access": "at", "refresh": "rt", "expires": NINE * 1000},
        "github-copilot": {"type": "oauth", "access": "", "refresh": "rt", "expires": 0},
        "openai": {"type": "api", "key": "k"},
        "https://x.example": {"type": "wellknown", "key": "K", "token": "t"},
    }

    assert tokens_of(importers.from_opencode(written(tmp_path / "auth.json", content))) == {
        ("anthropic", None): AT_NINE,
        ("github-copilot", None): TokenSet("", refresh_token="rt", expires_at=0),
    }


def test_gemini_cli(tmp_path: Path) -> None:
    id_token = jwt(sub="1", email="alice@x.example")
    content = {"access_token": "at", "refresh_token": "rt", "scope": "a b", "token_type": "Bearer"}
    path = written(tmp_path / "oauth_creds.json", content | {"id_token": id_token, "expiry_date": NINE * 1000})

    assert tokens_of(importers.from_gemini_cli(path)) == {
        (None, "alice@x.example"): TokenSet(
            "at", refresh_token="rt", scope="a b", id_token=id_token, expires_at=float(NINE)
        )
    }


def test_gemini_clis_mcp_servers(tmp_path: Path) -> None:
    token = {"accessToken": "at", "refreshToken": "rt", "tokenType": "Bearer", "expiresAt": NINE * 1000}
    content = [{"serverName": "one", "token": token, "updatedAt": NOW * 1000}, {"serverName": "two", "token": {}}]

    found = importers.from_gemini_cli(written(tmp_path / "mcp-oauth-tokens.json", content))

    assert tokens_of(found) == {("one", None): AT_NINE}


def test_codex(tmp_path: Path) -> None:
    access_token, id_token = jwt(exp=NOW + 864_000), jwt(sub="1")
    tokens = {"id_token": id_token, "access_token": access_token, "refresh_token": "rt", "account_id": "a1"}
    content = {"OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": "2027-01-15T07:59:00.123456789Z"}

    ((key, found),) = tokens_of(importers.from_codex(written(tmp_path / "auth.json", content))).items()

    assert key == (None, "1")
    assert (found.access_token, found.expires_at) == (access_token, NOW + 864_000)
    assert found.issued_at == pytest.approx(NOW - 59.876544)
    assert found.extra == {"account_id": "a1"}


def test_codex_with_an_api_key_alone() -> None:
    assert importers.from_codex({"OPENAI_API_KEY": "k", "tokens": None}) == []


RCLONE: Final = """
# a comment
[my drive]
type = drive
client_secret = s%%s
scope = drive
token = {"access_token":"at","token_type":"Bearer","refresh_token":"rt","expiry":"2027-01-15T10:00:00.5+01:00"}

[DEFAULT]
type = dropbox
token = {"access_token":"at2","token_type":"bearer","expiry":"0001-01-01T00:00:00Z"}

[nas]
type = sftp
pass = obscured
"""


def test_rclone(tmp_path: Path) -> None:
    found = importers.from_rclone(written(tmp_path / "rclone.conf", RCLONE))

    assert tokens_of(found) == {
        ("drive", "my drive"): TokenSet("at", refresh_token="rt", scope="drive", expires_at=NINE + 0.5),
        ("dropbox", "DEFAULT"): TokenSet("at2", "bearer"),
    }


def test_an_rclone_configuration_that_was_dumped(tmp_path: Path) -> None:
    token = {"access_token": "at", "refresh_token": "rt", "expiry": NINE_ISO + "Z"}
    dump = {"box": {"type": "box", "token": json.dumps(token)}}

    for source in (dump, written(tmp_path / "dump.json", dump)):
        assert tokens_of(importers.from_rclone(source)) == {("box", "box"): AT_NINE}


# Caches


def msal_cache(*targets: str) -> dict[str, Any]:
    account = {"home_account_id": "u.t", "environment": "login.microsoftonline.com"}
    grant = {**account, "client_id": "app"}
    of_access = {"realm": "t", "token_type": "Bearer", "cached_at": str(NOW), "expires_on": str(NINE)}
    others = {**account, "home_account_id": "v.t"}
    return {
        "AccessToken": {
            target: {**grant, **of_access, "secret": f"at of {target}", "target": target, "refresh_on": str(NOW + 1800)}
            for target in targets
        }
        | {"other": {**grant, **of_access, "client_id": "other", "secret": "at of another client", "target": "z"}},
        "RefreshToken": {"rt": {**grant, "secret": "rt", "target": "x y"}, "other": {**others, "secret": "rt2"}},
        "IdToken": {"idt": {**grant, "realm": "t", "secret": "idt"}},
        "Account": {"a": {**account, "realm": "t", "username": "alice@x.example"}},
        "AppMetadata": {"app": {"client_id": "app"}},
    }


def test_msal(tmp_path: Path) -> None:
    alice, other = importers.from_msal(written(tmp_path / "cache.bin", msal_cache("x y")))

    assert alice == ImportedTokens(
        TokenSet(
            "at of x y",
            refresh_token="rt",
            scope="x y",
            id_token="idt",
            issued_at=NOW,
            expires_at=NINE,
            refresh_at=NOW + 1800,
            extra={"home_account_id": "u.t", "client_id": "app"},
        ),
        user_id="alice@x.example",
        provider="login.microsoftonline.com",
    )
    assert (other.user_id, other.tokens.access_token, other.tokens.refresh_token) == ("v.t", "", "rt2")


def test_msal_with_several_targets_does_not_guess_which_one_the_app_means() -> None:
    alice, _ = importers.from_msal(msal_cache("x", "y"))

    assert (alice.tokens.access_token, alice.tokens.refresh_token) == ("", "rt")
    assert {one.scope: one.access_token for one in alice.access_tokens} == {"x": "at of x", "y": "at of y"}
    assert all(one.refresh_token is None and not one.extra and one.expires_at == NINE for one in alice.access_tokens)


def database(path: Path, table: str, rows: list[tuple[Any, ...]]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE {table}")
        connection.executemany(f"INSERT INTO {table.partition(' ')[0]} VALUES ({','.join('?' * len(rows[0]))})", rows)


def test_gcloud(tmp_path: Path) -> None:
    user = {"type": "authorized_user", "client_id": "app", "client_secret": "s", "refresh_token": "rt"}
    robot = {"type": "service_account", "private_key": "k"}
    accounts = [("alice", json.dumps(user)), ("bob", json.dumps(user).encode()), ("robot", json.dumps(robot))]
    database(tmp_path / "credentials.db", "credentials (account_id TEXT PRIMARY KEY, value BLOB)", accounts)
    columns = "(account_id TEXT PRIMARY KEY, access_token TEXT, token_expiry TIMESTAMP, rapt_token TEXT, id_token TEXT)"
    renewed = [("alice", "at", "2027-01-15 09:00:00.000000", None, "idt"), ("robot", "at", None, None, None)]
    database(tmp_path / "access_tokens.db", f"access_tokens {columns}", renewed)

    extra = {"client_id": "app"}
    assert tokens_of(importers.from_gcloud(tmp_path)) == {
        (None, "alice"): TokenSet("at", refresh_token="rt", id_token="idt", expires_at=NINE, extra=extra),
        (None, "bob"): TokenSet("", refresh_token="rt", extra=extra),
    }


def test_gcloud_without_a_login(tmp_path: Path) -> None:
    assert importers.from_gcloud(tmp_path) == []


def test_a_gcloud_database_that_is_none_is_corrupted(tmp_path: Path) -> None:
    written(tmp_path / "credentials.db", "this is no database, whatever it is called, and long enough to tell" * 20)
    with pytest.raises(StoreCorrupted, match=r"credentials\.db"):
        importers.from_gcloud(tmp_path)


# All of them

READERS: Final[dict[str, Callable[[Any], list[ImportedTokens]]]] = {
    name: getattr(importers, name) for name in importers.__all__ if name.startswith("from_")
}
FILE_READERS: Final = {name: read for name, read in READERS.items() if name != "from_gcloud"}


def test_every_importer_is_named() -> None:
    assert importers.__all__ == sorted(importers.__all__)
    assert len(READERS) == 14


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_not_there_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="nowhere"):
        READERS[name](tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILE_READERS)
@pytest.mark.parametrize("content", ['["canary"', '"canary"', "5", "", "\ufeff", "canary = {]", "[canary" * 10_000])
def test_a_file_of_another_shape_is_an_error_that_names_it_and_shows_nothing_of_it(
    name: str, content: str, tmp_path: Path
) -> None:
    with pytest.raises(StoreCorrupted, match=r"other\.file") as caught:
        FILE_READERS[name](written(tmp_path / "other.file", content))
    assert caught.value.__cause__ is caught.value.__context__ is None
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack
    own = [frame for frame in frames if "tokenflight" in frame.filename and "test_" not in frame.filename]
    assert own
    assert "canary" not in f"{caught.value}{[frame.locals for frame in own]}"


@pytest.mark.parametrize("charset", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_file_is_read_in_the_charset_that_powershell_writes(charset: str, tmp_path: Path) -> None:
    path = tmp_path / "token.json"
    path.write_bytes(json.dumps({"token": "at", "refresh_token": "rt", "expiry": NINE_ISO + "Z"}).encode(charset))

    assert tokens_of(importers.from_google(path)) == {(None, None): AT_NINE}


@pytest.mark.parametrize("name", FILE_READERS)
@pytest.mark.parametrize("content", [b"\xff\xfe\x00secret-canary", b"\xff\xfesecret", b"secret-canary\x80"])
def test_bytes_that_are_no_text_are_an_error(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other.file").write_bytes(content)
    with pytest.raises(StoreCorrupted, match=r"other\.file") as caught:
        FILE_READERS[name](tmp_path / "other.file")
    assert caught.value.__context__ is None


@pytest.mark.parametrize("name", FILE_READERS)
@pytest.mark.parametrize("source", [None, 5, {}, {"x": 1}])
def test_what_holds_no_tokens_gives_none(name: str, source: Any) -> None:
    try:
        assert FILE_READERS[name](source) == []
    except StoreCorrupted:
        assert not isinstance(source, dict)


@given(
    st.sampled_from(sorted(FILE_READERS)),
    st.dictionaries(st.sampled_from(["tokens", "RefreshToken", "extra_data", "token", "model"]), json_values),
)
def test_whatever_a_mapping_holds_tokens_are_read_from_it_or_none_are(name: str, content: dict[str, Any]) -> None:
    for found in FILE_READERS[name](content):
        assert found.tokens.access_token or found.tokens.refresh_token


async def test_what_was_read_can_be_stored() -> None:
    store = MemoryTokenStore()
    for found in importers.from_opencode({"x": {"type": "oauth", "access": "at", "refresh": "rt", "expires": 1}}):
        await store.save(TokenKey(found.provider or "", "alice"), StoredTokens(found.tokens))

    record = await store.load(TokenKey("x", "alice"))
    assert record is not None
    assert record.tokens.refresh_token == "rt"
