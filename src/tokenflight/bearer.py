"""Bearer tokens on requests (RFC 6750), free of any HTTP library.

`BearerFlow` accompanies a request from start to end: it checks the destination, sets the headers, reads a 401, and
renews and replays once. An adapter for an HTTP library adds two things: it drives the flow, and it knows which of its
requests can be sent a second time.

The flow is an async generator in the shape that httpx defines: it yields each request to send and takes the response.
httpx and httpx2 drive it themselves. A middleware drives it in three calls: `anext` before it sends, `asend` with the
response, and `aclose`. Between two yields the flow waits for the refresher alone, so a blocking adapter can run each
of these calls on the refresher's event loop.
"""

import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, MutableMapping
from typing import Final, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from tokenflight._token_shapes import folded
from tokenflight._urls import is_loopback
from tokenflight.errors import ConfigurationError
from tokenflight.providers.base import BEARER_HEADER, AccessTokenHeader
from tokenflight.refresher import TokenRefresher
from tokenflight.tokens import TokenSet

_UNAUTHORIZED: Final = 401
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_SCHEMES_WITHOUT_TOKENS: Final = frozenset({"basic", "digest", "ntlm", "negotiate"})
_ERRORS_OF_THE_REQUEST: Final = frozenset(
    folded(error)  # servers write them with hyphens and in camel case, too
    for error in (
        "insufficient_claims",  # Microsoft Entra: it takes a login with these claims
        "insufficient_scope",
        "insufficient_user_authentication",  # RFC 9470: it takes a login
        "invalid_dpop_proof",
        "invalid_request",
        "use_dpop_nonce",  # RFC 9449 §9: the same token does with another proof
    )
)

_CHALLENGE_PART: Final = re.compile(
    r"""(?P<name>[!#$%&'*+./^_`|~0-9A-Za-z-]++)
    (?:\s*+=\s*+(?:
        "(?P<quoted>(?:[^"\\]|\\.)*+)"(?=[\s,;]|\Z)
        |'(?P<quoted_once>[^']*+)'(?=[\s,;]|\Z)
        |\\?["'](?P<unclosed>[^,"]*+)
        |(?P<plain>[^\s,;"]*+)
         (?:\s++(?!(?:bearer|dpop)\b)[\w/-]++(?!\s*+=|\s++[\w/-]++\s*+=))*+  # a realm of several words
    ))?""",
    re.VERBOSE | re.IGNORECASE,
)
"""A parameter, a scheme, or the credentials after one, which may have slashes in them.

All quantifiers are possessive: the API writes this field, and no text in it may take more than linear time.
"""
_VALUE_GROUPS: Final = ("quoted", "quoted_once", "unclosed", "plain")


class URL(Protocol):
    """The parts of a URL that decide where a request goes, as httpx and similar libraries have them."""

    @property
    def scheme(self) -> str:
        """The scheme in lower case, such as ``https``."""
        ...

    @property
    def host(self) -> str | None:
        """A name or an address without brackets, in lower case."""
        ...

    @property
    def port(self) -> int | None:
        """The port, or None for the scheme's default."""
        ...


class Request(Protocol):
    """A request that an HTTP library is about to send."""

    @property
    def method(self) -> str:
        """The method, such as ``GET``."""
        ...

    @property
    def url(self) -> URL:
        """The URL of the request."""
        ...

    @property
    def headers(self) -> MutableMapping[str, str]:
        """The header fields, by name in any case."""
        ...


class Response(Protocol):
    """A response of the API."""

    @property
    def status_code(self) -> int:
        """The status, such as 401."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields, by name in any case. Fields of the same name are one value, joined by commas."""
        ...

    @property
    def request(self) -> Request:
        """The request of this response: the last one, if the library followed redirects."""
        ...


RequestT = TypeVar("RequestT", bound=Request)


class OriginPolicy:
    """The destinations of a bearer token: `origins` if given, such as ``https://api.example``, and never in clear text.

    Raises `ConfigurationError` if `origins` holds a value that is not an origin (RFC 6454 §6.2).
    """

    def __init__(self, origins: Iterable[str] | None) -> None:
        if isinstance(origins, str):
            raise ConfigurationError("origins must be a collection of origins, not one string")
        self._origins = None if origins is None else frozenset(_parsed_origin(origin) for origin in origins)
        self._last_allowed: tuple[str, str | None, int | None] | None = None

    @property
    def unrestricted_scheme(self) -> str | None:
        """The scheme that allows every URL, or None. A caller that compares it first saves most calls."""
        return "https" if self._origins is None else None

    def require_allowed(self, url: URL) -> None:
        """Raise `ConfigurationError` unless the token may be sent to `url`."""
        # Most requests of a client go where the last one went. The comparison covers every part that the check reads.
        destination = (url.scheme, url.host, url.port)
        if destination != self._last_allowed:
            self._check(*destination)
            self._last_allowed = destination

    def _check(self, scheme: str, host: str | None, port: int | None) -> None:
        if scheme != "https" and not (scheme == "http" and is_loopback(host or "")):
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


class BearerFlow(Generic[RequestT]):
    """Sends requests with a valid access token of `user_id`, and replays one once if the API rejects its token.

    `can_resend` says whether the body of a request can be sent again. An adapter runs each request through the flow::

        flow = BearerFlow(refresher, "alice", can_resend=lambda request: True)
        async with aclosing(flow.run(request)) as steps:
            response = await send(await anext(steps))
            with suppress(StopAsyncIteration):  # the flow ends: this is the response to return
                response = await send(await steps.asend(response))

    The flow raises what `TokenRefresher.get_valid_token` raises, and `ConfigurationError` for a URL that `origins`
    does not allow and for a token that is no bearer token. It then yields nothing: a request never goes out without
    its token.
    """

    def __init__(
        self,
        refresher: TokenRefresher,
        user_id: str,
        *,
        origins: Iterable[str] | None = None,
        can_resend: Callable[[RequestT], bool],
    ) -> None:
        self._refresher = refresher
        self._user_id = user_id
        self._origin_policy = OriginPolicy(origins)
        self._unrestricted_scheme = self._origin_policy.unrestricted_scheme
        self._can_resend = can_resend
        self._header = refresher.access_token_header
        self._header_name = self._header.name
        # An access token and its ready header, for the next request. Each token set wraps its token in a string object
        # of its own, so the same object is the same token of the same type. They are one tuple because threads may
        # share the flow.
        self._last_header: tuple[str | None, str] = (None, "")

    async def run(self, request: RequestT) -> AsyncGenerator[RequestT, Response]:
        """Yield `request` with its headers, take the response, and yield the request again if it has to be replayed.

        A 401 that declares the access token dead starts a renewal, and the replay follows it. A request whose body
        can't be sent again is not replayed; the next request has the new token.
        """
        if request.url.scheme != self._unrestricted_scheme:
            self._origin_policy.require_allowed(request.url)
        # A cached token needs no coroutine: to await one takes half as long again.
        tokens = self._refresher.cached_token(self._user_id)
        if tokens is None:
            tokens = await self._refresher.get_valid_token(self._user_id)
        access_token, header = self._last_header
        if tokens.access_token is access_token:
            request.headers[self._header_name] = header
        else:
            header = self._set_headers(request, tokens)
        # No lock and no lease is held here: the API may take its time.
        response = yield request
        if response.status_code != _UNAUTHORIZED:
            return
        if not means_invalid_token(response.headers.get("WWW-Authenticate", "")):
            return
        # On a redirect to another host, the library drops the token: such a 401 says nothing about it.
        if response.request.headers.get(self._header_name) != header:
            return
        renewed = await self._refresher.get_valid_token(self._user_id, rejected=tokens.access_token)
        # The same token again: this API rejects every token, so the caller gets the 401.
        if renewed.access_token != tokens.access_token and self._can_resend(request):
            self._set_headers(request, renewed)
            yield request

    def _set_headers(self, request: RequestT, tokens: TokenSet) -> str:
        headers = headers_for(tokens, request.method, request.url, header=self._header)
        for name, value in headers.items():
            request.headers[name] = value
        self._last_header = (tokens.access_token, headers[self._header_name])
        return headers[self._header_name]


def headers_for(
    tokens: TokenSet, method: str, url: URL, *, header: AccessTokenHeader = BEARER_HEADER
) -> dict[str, str]:
    """The header fields that authorize a request with `method` to `url`, the token in `header` (RFC 6750 §2.1).

    Raises `ConfigurationError` if `tokens` holds no bearer token.
    """
    if tokens.token_type.lower() != "bearer":
        raise ConfigurationError(
            f"the access token for {method} {url.scheme}://{url.host} is of type {tokens.token_type}, "
            "which can't be sent as a bearer token",
            code="unsupported_token_type",
        )
    return {header.name: header.value(tokens.access_token)}


def means_invalid_token(challenges: str) -> bool:
    """Whether a 401 with these ``WWW-Authenticate`` fields declares the access token dead (RFC 6750 §3).

    A 401 without a challenge does. So does a challenge of any scheme for tokens, be it Bearer, DPoP or a vendor's own,
    unless a new token would not cure its error; one without an error counts where none has any. Challenges of the
    schemes for passwords and Kerberos alone do not.
    """
    found = _parsed_challenges(challenges)
    if not found:
        return True
    errors = [error for scheme, error in found if scheme not in _SCHEMES_WITHOUT_TOKENS]
    return any(error not in _ERRORS_OF_THE_REQUEST for error in [error for error in errors if error] or errors)


def _parsed_challenges(challenges: str) -> list[tuple[str, str]]:
    """The scheme and the ``error`` of each challenge (RFC 9110 §11.6.1), both without case, the error in letters alone.

    Servers leave out commas, quotes and even the scheme, which is empty then.
    """
    found: list[tuple[str, str]] = []
    follows_scheme = False
    end = 0
    for part in _CHALLENGE_PART.finditer(challenges):
        value = next((value for group in _VALUE_GROUPS if (value := part[group]) is not None), None)
        is_after_comma = "," in challenges[end : part.start()]
        end = part.end()
        if value is None and follows_scheme and not is_after_comma:
            follows_scheme = False  # a token68, such as the credentials of Negotiate
        elif value is None:
            found.append((part["name"].lower(), ""))
            follows_scheme = True
        else:
            follows_scheme = False
            if part["name"].lower() == "error":
                scheme = found.pop()[0] if found else ""
                found.append((scheme, folded(value)))
    return found


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
