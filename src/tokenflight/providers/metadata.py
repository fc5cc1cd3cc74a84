"""What an authorization server says about itself, and the copy of it that all users of a provider share."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

from tokenflight._checks import printable
from tokenflight._singleflight import Flight, SingleFlight
from tokenflight._urls import require_secure_url
from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    ProviderMisconfigured,
    ProviderUnavailable,
    TokenflightError,
)
from tokenflight.providers.replies import Reply, is_busy, json_object, retry_after
from tokenflight.providers.requests import Request, build_metadata_request

MAX_AGE_SECONDS: Final = 24 * 3600.0
"""Metadata older than this is loaded again; where that fails, it stays in use."""

COOL_DOWN_SECONDS: Final = 5.0
"""For this long after a failure, that failure is the answer and nothing is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetadata:
    """What a client acts on in a server's metadata (RFC 8414 §2, OpenID Connect Discovery §3), the rest in `extra`.

    None stands for a member that the server left out, or whose type is not the specification's. URLs are held as the
    server wrote them and are checked when they are used, by `endpoint`: a broken one breaks nothing but its own use.
    """

    issuer: str | None = None
    """None if only endpoints were configured, so that the server's own name is unknown."""
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    end_session_endpoint: str | None = None
    introspection_endpoint: str | None = None
    jwks_uri: str | None = None
    pushed_authorization_request_endpoint: str | None = None
    registration_endpoint: str | None = None
    revocation_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    mtls_endpoint_aliases: Mapping[str, str] | None = None

    code_challenge_methods_supported: tuple[str, ...] | None = None
    dpop_signing_alg_values_supported: tuple[str, ...] | None = None
    grant_types_supported: tuple[str, ...] | None = None
    id_token_signing_alg_values_supported: tuple[str, ...] | None = None
    scopes_supported: tuple[str, ...] | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    token_endpoint_auth_signing_alg_values_supported: tuple[str, ...] | None = None
    authorization_response_iss_parameter_supported: bool | None = None
    client_id_metadata_document_supported: bool | None = None
    require_pushed_authorization_requests: bool | None = None

    extra: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """The other members, read-only."""

    @classmethod
    def from_members(cls, members: Mapping[str, object]) -> Self:
        """Read a decoded JSON object."""
        known: dict[str, Any] = {
            member.name: _READERS[member.type](members.get(member.name))
            for member in fields(cls)
            if member.name != "extra"
        }
        extra = {name: value for name, value in members.items() if name not in known}
        return cls(**known, extra=MappingProxyType(extra))

    def endpoint(self, name: str, *, provider: str) -> str:
        """Return the endpoint `name`, such as ``token_endpoint``, fit to be sent a secret.

        Raises `ProviderMisconfigured`, with the code ``insecure_endpoint``, if the server has none or if it is not
        https (plain http is for loopback addresses).
        """
        url = getattr(self, name)
        try:
            require_secure_url(name, url)
        except ConfigurationError as exc:
            raise ProviderMisconfigured(
                f"{provider} names no usable endpoint: {exc}", code="insecure_endpoint", provider=provider
            ) from None
        return str(url)


class Discovery:
    """The metadata of `issuer`: one load serves all concurrent callers, and only valid metadata is kept.

    `send` exchanges a request for a reply within a timeout of its own.
    """

    def __init__(self, issuer: str, send: Callable[[Request], Awaitable[Reply]], *, provider: str) -> None:
        self._issuer = issuer
        self._send = send
        self._provider = provider
        # A flight belongs to one event loop; a provider may be shared by refreshers on several.
        self._flights: WeakKeyDictionary[asyncio.AbstractEventLoop, SingleFlight[ServerMetadata]] = WeakKeyDictionary()
        self._metadata: ServerMetadata | None = None
        self._error: TokenflightError | None = None
        self._checked_at = 0.0

    async def metadata(self) -> ServerMetadata:
        """Return the metadata, loaded by the first call.

        Raises `ProviderUnavailable`, `ProviderMisconfigured` or `InvalidProviderResponse` as long as none was valid.
        """
        age = time.time() - self._checked_at
        if self._error is not None and 0 <= age < COOL_DOWN_SECONDS:
            if self._metadata is None:
                raise copy(self._error)
            return self._metadata  # an outage of discovery is no outage while a valid copy is at hand
        if self._metadata is not None and self._error is None and 0 <= age < MAX_AGE_SECONDS:
            return self._metadata
        flights = self._flights.setdefault(asyncio.get_running_loop(), SingleFlight())
        flight = flights.get(self._issuer) or flights.start(self._issuer, self._load)
        return await flight.result()

    async def _load(self, _: Flight[ServerMetadata]) -> ServerMetadata:
        try:
            reply = await self._send(build_metadata_request(self._issuer))
            self._metadata = parse_metadata_reply(reply, issuer=self._issuer, provider=self._provider)
            self._error = None
        except TokenflightError as exc:
            self._error = exc
            if self._metadata is None:
                raise
        finally:
            self._checked_at = time.time()
        return self._metadata


def parse_metadata_reply(reply: Reply, *, issuer: str, provider: str) -> ServerMetadata:
    """Return the metadata in `reply`, if it is that of `issuer` (OpenID Connect Discovery §4.3).

    The token endpoint is checked here, not only when it is used: metadata without one is of no use to any renewal,
    and must not replace a copy that has one.
    """
    if is_busy(reply.status):
        raise ProviderUnavailable(
            f"discovery of {issuer} failed with status {reply.status}; try again later",
            code="discovery_failed",
            provider=provider,
            retry_after=retry_after(reply),
        )
    if reply.status != 200:
        raise ProviderMisconfigured(
            f"discovery of {issuer} failed with status {reply.status}; check the issuer",
            code="discovery_failed",
            provider=provider,
        )
    try:
        members = json_object(reply.body)
    except InvalidProviderResponse as exc:
        raise InvalidProviderResponse(f"discovery of {issuer}: {exc}", provider=provider) from None
    if members.get("issuer") != issuer:
        raise ProviderMisconfigured(
            f"discovery of {issuer} returned the metadata of another issuer, {printable(members.get('issuer'))!r}; "
            "the two must be the same string",
            code="issuer_mismatch",
            provider=provider,
        )
    metadata = ServerMetadata.from_members(members)
    metadata.endpoint("token_endpoint", provider=provider)
    return metadata


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _texts(value: object) -> tuple[str, ...] | None:
    return tuple(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _texts_by_name(value: object) -> Mapping[str, str] | None:
    if not isinstance(value, dict):
        return None
    return MappingProxyType({name: text for name, text in value.items() if isinstance(text, str)})


_READERS: Final[Mapping[object, Callable[[object], object]]] = {
    str | None: _text,
    bool | None: _flag,
    tuple[str, ...] | None: _texts,
    Mapping[str, str] | None: _texts_by_name,
}
"""How a member is read, by the type that `ServerMetadata` gives it."""
