"""What is sent to an authorization server, as plain data: nothing here sends it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Self
from urllib.parse import urlencode, urlsplit

from tokenflight.profiles import STANDARD, Profile
from tokenflight.profiles.base import RequestFormat
from tokenflight.providers.grants import Grant

OPENID_METADATA_PATH: Final = "/.well-known/openid-configuration"
OAUTH_METADATA_PATH: Final = "/.well-known/oauth-authorization-server"

_CONTENT_TYPES: Final = {"form": "application/x-www-form-urlencoded", "json": "application/json"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request with `parameters` in a form or a JSON object, or in the query of a GET; a GET where they are None.

    `url` is the address without the parameters. `secrets` are the strings in the request that no error may show, should
    the server repeat them. Each part that puts a secret into the request names it there. `is_refresh` tells that it
    presents a grant that an earlier request brought.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    parameters: Mapping[str, str] | None = field(default=None, repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    format: RequestFormat = field(default="form", repr=False)
    is_refresh: bool = field(default=False, repr=False)

    @property
    def method(self) -> str:
        """``GET`` or ``POST``."""
        return "GET" if self.parameters is None or self.format == "query" else "POST"

    @property
    def target(self) -> str:
        """The URL to send to. With the format ``query`` it holds secrets: it must not be logged."""
        if self.format != "query" or not self.parameters:
            return self.url
        return f"{self.url}{'&' if '?' in self.url else '?'}{urlencode(self.parameters)}"

    @property
    def content(self) -> bytes:
        """The body: a form (RFC 6749 Appendix B) or a JSON object. Empty for a GET."""
        if self.method == "GET":
            return b""
        return (json.dumps(self.parameters) if self.format == "json" else urlencode(self.parameters or {})).encode()

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


def build_token_request(token_endpoint: str, grant: Grant, *, profile: Profile = STANDARD) -> Request:
    """Return the request that presents `grant` (RFC 6749 §3.2), without client authentication."""
    refresh_format = profile.refresh_format if grant.is_refresh else None
    request_format = refresh_format or profile.request_format
    content_type = _CONTENT_TYPES.get(request_format)
    return Request(
        url=token_endpoint,
        headers={
            "Accept": "application/json",
            **({} if content_type is None else {"Content-Type": content_type}),
            **profile.token_request_headers,
        },
        parameters={"grant_type": grant.grant_type, **profile.token_parameters, **grant.parameters},
        secrets=grant.secrets,
        format=request_format,
        is_refresh=grant.is_refresh,
    )


def with_vendor_names(request: Request, profile: Profile) -> Request:
    """Return an authenticated token request with its parameters named, and left out, as the vendor wants them."""
    omitted = profile.omitted_refresh_parameters if request.is_refresh else frozenset()
    parameters = {
        profile.client_id_parameter if name == "client_id" else name: value
        for name, value in (request.parameters or {}).items()
        if name not in omitted
    }
    return replace(request, parameters=parameters)


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
