"""What is sent to an authorization server, as plain data: nothing here sends it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Self
from urllib.parse import urlencode, urlsplit

from tokenflight.providers.grants import Grant

OPENID_METADATA_PATH: Final = "/.well-known/openid-configuration"
OAUTH_METADATA_PATH: Final = "/.well-known/oauth-authorization-server"


@dataclass(frozen=True, slots=True)
class Request:
    """A POST of the form `parameters`, or a GET where they are None.

    `secrets` are the strings in it that no error may show, should the server repeat them. Each part that puts a
    secret into the request names it there.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    parameters: Mapping[str, str] | None = field(default=None, repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def content(self) -> bytes:
        """The body, form-encoded (RFC 6749 Appendix B)."""
        return urlencode(self.parameters or {}).encode()

    def adding(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
        secrets: Iterable[str] = (),
    ) -> Self:
        """Return this request with further `headers`, `parameters` and `secrets`; a name that is there is replaced."""
        return replace(
            self,
            headers={**self.headers, **(headers or {})},
            parameters=self.parameters if parameters is None else {**(self.parameters or {}), **parameters},
            secrets=self.secrets.union(secrets),
        )


def build_token_request(token_endpoint: str, grant: Grant) -> Request:
    """Return the request that presents `grant` (RFC 6749 §3.2), without client authentication."""
    return Request(
        url=token_endpoint,
        headers={"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"},
        parameters={"grant_type": grant.grant_type, **grant.parameters},
        secrets=grant.secrets,
    )


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Return the addresses where the metadata of `issuer` may be, in the order in which to ask.

    First the one of OpenID Connect Discovery §4, then the two that insert their part between host and path: the one
    of RFC 8414 §3.1, and OpenID's document at RFC 8414's place (§5), which is the first where there is no path.
    """
    parts = urlsplit(issuer)
    host, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    appended = f"{host}{path}{OPENID_METADATA_PATH}"
    return tuple(dict.fromkeys((appended, f"{host}{OAUTH_METADATA_PATH}{path}", f"{host}{OPENID_METADATA_PATH}{path}")))


def build_metadata_request(url: str) -> Request:
    """Return the request for the metadata at `url` (OpenID Connect Discovery §4.1, RFC 8414 §3.1)."""
    return Request(url=url, headers={"Accept": "application/json"})
