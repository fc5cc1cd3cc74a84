"""Files of programs that a person runs on a machine of their own."""

import configparser
from collections.abc import Iterable, Mapping
from typing import Final

from tokenflight._jwt import unverified_claims
from tokenflight.errors import StoreCorrupted
from tokenflight.importers._source import (
    ImportedTokens,
    Rows,
    Source,
    entry,
    imported,
    mapping_in,
    parsed,
    path_of,
    read_text,
    rows_in,
    user_named_in,
)

_OPENCODE_NAMES: Final = {"access": "access_token", "refresh": "refresh_token", "expires": "expires_at"}
_SPOTIPY_PREFIX: Final = ".cache-"


def from_google(source: Source) -> list[ImportedTokens]:
    """A ``token.json`` of google-auth, or the application default credentials of a user.

    The latter, ``~/.config/gcloud/application_default_credentials.json``, hold a refresh token alone. A service
    account has no tokens.
    """
    # Documented: token, refresh_token, scopes, expiry, account; of application default credentials, type and
    # refresh_token.
    fields = mapping_in(source, "google-auth")
    return imported(fields, user=fields.get("account"), without={"account", "type"})


def from_mcp(source: Source) -> list[ImportedTokens]:
    """A file of an app's ``TokenStorage`` for the MCP SDK: an ``OAuthToken``, alone or as ``tokens`` beside others."""
    # Documented: the members of OAuthToken, which has a lifetime and no beginning. Seen: tokens, client_info and
    # expires_at side by side in one object.
    fields = mapping_in(source, "the MCP SDK")
    inner = entry(fields.get("tokens"))
    return imported({"expires_at": fields.get("expires_at"), **inner} if inner else fields)


def from_spotipy(source: Source) -> list[ImportedTokens]:
    """A cache file of Spotipy, ``.cache`` or ``.cache-<username>``, whose name is all that tells the user."""
    # Documented: the reply of the token endpoint, and expires_at.
    path = path_of(source)
    file_name = "" if path is None else path.name
    user = file_name.removeprefix(_SPOTIPY_PREFIX) if file_name.startswith(_SPOTIPY_PREFIX) else None
    return imported(mapping_in(source, "Spotipy"), user=user)


def from_aws_sso(source: Source) -> list[ImportedTokens]:
    """The cache of AWS IAM Identity Center, ``~/.aws/sso/cache``, or one file of it; the start URL is the provider."""
    # Documented: startUrl, region, accessToken, expiresAt, refreshToken, and the registration of the client, which is
    # in files of its own too. Seen: expiresAt that ends in "UTC".
    path = path_of(source)
    files: Iterable[Source] = sorted(path.glob("*.json")) if path is not None and path.is_dir() else [source]
    return [found for file in files for found in _aws_session(file)]


def from_opencode(source: Source) -> list[ImportedTokens]:
    """The ``auth.json`` of opencode, one token set a provider; API keys are left out."""
    # Seen in its source: for each provider, type "oauth" with access, refresh, and expires in milliseconds.
    found: list[ImportedTokens] = []
    for provider, value in mapping_in(source, "opencode").items():
        fields = entry(value)
        if fields.get("type") == "oauth":
            renamed = {_OPENCODE_NAMES.get(member, member): item for member, item in fields.items()}
            found += imported(renamed, provider=provider, without={"type"})
    return found


def from_gemini_cli(source: Rows) -> list[ImportedTokens]:
    """The ``oauth_creds.json`` of Gemini CLI, or its ``mcp-oauth-tokens.json``, where a server is the provider.

    Newer versions may keep the same in the system's keychain or in an encrypted file, which are not read.
    """
    # Seen in its source: access_token, refresh_token, id_token, and expiry_date in milliseconds; of MCP servers, a list
    # of serverName and token.
    found: list[ImportedTokens] = []
    for fields in rows_in(source, "Gemini CLI"):
        if "serverName" in fields:
            found += imported(entry(fields.get("token")), provider=fields["serverName"])
        else:
            found += imported(fields, user=user_named_in(fields.get("id_token")))
    return found


def from_codex(source: Source) -> list[ImportedTokens]:
    """The ``auth.json`` of Codex. The expiry is the one in its access token, which is a JWT."""
    # Seen in its source: tokens with id_token, access_token, refresh_token and account_id; last_refresh beside it.
    file = mapping_in(source, "Codex")
    tokens = entry(file.get("tokens"))
    access_token = tokens.get("access_token")
    claims = unverified_claims(access_token) if isinstance(access_token, str) else {}
    times = {"expires_at": claims.get("exp"), "issued_at": file.get("last_refresh")}
    return imported({**tokens, **times}, user=user_named_in(tokens.get("id_token")))


def from_rclone(source: Source) -> list[ImportedTokens]:
    """An ``rclone.conf``, or what ``rclone config dump`` prints: a remote is the user, its type the provider.

    An encrypted configuration can't be read: pass what ``rclone config dump`` prints instead.
    """
    # Documented: a section a remote, with its type, and its token as JSON text in the form of Go's oauth2.Token.
    path = path_of(source)
    remotes = mapping_in(source, "rclone") if path is None else _sections(read_text(path))
    if remotes is None:
        raise StoreCorrupted(f"{path} is no rclone.conf in plain text")
    found: list[ImportedTokens] = []
    for remote, value in remotes.items():
        options = entry(value)
        token = entry(parsed(str(options.get("token"))))
        found += imported({"scope": options.get("scope"), **token}, user=remote, provider=options.get("type"))
    return found


def _aws_session(file: Source) -> list[ImportedTokens]:
    fields = mapping_in(file, "the AWS CLI")
    return imported(fields, provider=fields.get("startUrl"), without={"startUrl"})


def _sections(text: str) -> Mapping[str, object] | None:
    dump = parsed(text)
    if isinstance(dump, Mapping):
        return dump
    config = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False, default_section="")
    try:
        config.read_string(text)
    except configparser.Error:
        return None  # not raised from here: the error shows lines, and lines hold tokens
    return {section: dict(config[section]) for section in config.sections()} or None
