"""The rules of a bearer token on a request, free of any HTTP library: where it may go, and what a 401 means."""

import re
from collections.abc import Iterable
from typing import Final, Protocol
from urllib.parse import urlsplit

from tokenflight._urls import is_loopback
from tokenflight.errors import ConfigurationError
from tokenflight.tokens import TokenSet

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_NOT_ABOUT_THE_TOKEN: Final = frozenset({"insufficient_scope", "invalid_request"})

_CHALLENGE_PART: Final = re.compile(
    r"""(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]++)
    (?:\s*+=\s*+(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<plain>[^\s,"]*+)))?""",
    re.VERBOSE,
)
"""Possessive throughout: the field is the API's, and no text in it may take more than linear time."""


class URL(Protocol):
    """What decides where a request goes, in the form that HTTP libraries have it."""

    @property
    def scheme(self) -> str:
        """Such as ``https``."""
        ...

    @property
    def host(self) -> str:
        """A name or an address, without brackets."""
        ...

    @property
    def port(self) -> int | None:
        """None where it is the scheme's default."""
        ...


class BearerRules:
    """Where a bearer token may go: to `origins` if given (such as ``https://api.example``), and never in clear text."""

    def __init__(self, origins: Iterable[str] | None) -> None:
        self._origins = None if origins is None else frozenset(_parsed_origin(origin) for origin in origins)

    def require_allowed(self, url: URL) -> None:
        """Raise `ConfigurationError` unless the token may be sent to `url`."""
        scheme = url.scheme
        if scheme == "https" and self._origins is None:
            return
        host, port = url.host, url.port
        if scheme != "https" and not (scheme == "http" and is_loopback(host)):
            raise ConfigurationError(
                f"no bearer token is sent to {scheme}://{host}: plain http is for loopback addresses only",
                code="insecure_origin",
            )
        if self._origins is not None and (scheme, host, port or _DEFAULT_PORTS[scheme]) not in self._origins:
            raise ConfigurationError(
                f"no bearer token is sent to {scheme}://{host}{'' if port is None else f':{port}'}: it is none of the "
                "origins of this BearerAuth; add it there, or send this request with auth=None",
                code="foreign_origin",
            )


def authorization(tokens: TokenSet) -> str:
    """The ``Authorization`` header field (RFC 6750 §2.1)."""
    if tokens.token_type.lower() != "bearer":
        raise ConfigurationError(
            f"the access token is of type {tokens.token_type}, which can't be sent as a bearer token",
            code="unsupported_token_type",
        )
    return "Bearer " + tokens.access_token  # formatting a subclass of str takes several times as long


def is_about_the_token(challenges: str) -> bool:
    """Whether a 401 with these ``WWW-Authenticate`` fields says that the access token is dead (RFC 6750 §3).

    So do no field at all, and a Bearer challenge without an error. Another scheme alone does not, nor does a token
    that is good but not for this.
    """
    if not challenges.strip():
        return True
    scheme = ""
    errors: dict[str, str] = {}
    for part in _CHALLENGE_PART.finditer(challenges):
        value = part["quoted"] if part["quoted"] is not None else part["plain"]
        if value is None:
            scheme = part["name"].lower()
            errors.setdefault(scheme, "")
        elif part["name"].lower() == "error":
            errors[scheme] = value
    return "bearer" in errors and errors["bearer"] not in _NOT_ABOUT_THE_TOKEN


def _parsed_origin(origin: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError, TypeError):
        host = port = None
    else:
        if host and parts.scheme in _DEFAULT_PORTS and parts.path in {"", "/"} and not parts.query:
            return parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme]
    raise ConfigurationError(f"origins must hold origins such as https://api.example, not {origin!r:.60}")
