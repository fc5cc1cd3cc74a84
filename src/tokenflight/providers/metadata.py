"""What an authorization server says about itself (RFC 8414, OpenID Connect Discovery)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, Self

from tokenflight._checks import printable
from tokenflight._urls import require_secure_url
from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    ProviderMisconfigured,
    ProviderUnavailable,
)
from tokenflight.providers._replies.classification import is_busy
from tokenflight.providers._replies.decoding import decode_body
from tokenflight.providers._replies.pauses import retry_after_seconds
from tokenflight.providers.replies import Reply
from tokenflight.providers.requests import metadata_urls


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

    def endpoint(self, name: str, *, provider: str, insecure_hosts: frozenset[str] = frozenset()) -> str:
        """Return the endpoint `name`, such as ``token_endpoint``, fit to be sent a secret.

        It is https, or plain http at one of the `insecure_hosts`. A server whose issuer is not https may also have
        it on this machine; the others may not: they would lead from https to plain http.

        Raises `ProviderMisconfigured`, with the code ``insecure_endpoint``, for any other and if the server has none.
        """
        url = getattr(self, name)
        is_https = self.issuer is not None and self.issuer.lower().startswith("https:")
        try:
            require_secure_url(name, url, insecure_hosts=insecure_hosts, allow_loopback=not is_https)
        except ConfigurationError as exc:
            raise ProviderMisconfigured(
                f"{provider} names no usable endpoint: {exc}", code="insecure_endpoint", provider=provider
            ) from None
        return str(url)


def parse_metadata_reply(
    reply: Reply, *, issuer: str, url: str, provider: str, insecure_hosts: frozenset[str] = frozenset()
) -> ServerMetadata:
    """Return the metadata in `reply`, which came from `url`, if it is that of `issuer` (RFC 8414 §3.3).

    The token endpoint is checked here, not only when it is used: metadata without one is of no use to any renewal,
    and must not replace a copy that has one.
    """
    body = decode_body(reply.headers, reply.body)
    if is_busy(reply.status):
        raise ProviderUnavailable(
            f"discovery of {issuer} failed with status {reply.status} at {url}; try again later",
            code="discovery_failed",
            provider=provider,
            retry_after=retry_after_seconds(
                reply.headers, body.members, is_rate_limited=reply.status == 429, now=time.time()
            ),
        )
    if reply.status != 200:
        raise ProviderMisconfigured(
            f"discovery of {issuer} failed with status {reply.status} at {url}; check the issuer, or pass the address "
            "of its metadata as metadata_url",
            code="discovery_failed",
            provider=provider,
        )
    flaw = "is a form" if body.is_form else body.flaw
    if flaw is not None:
        raise InvalidProviderResponse(f"discovery of {issuer} at {url}: the reply {flaw}", provider=provider)
    members = body.members
    if (named := members.get("issuer")) != issuer:
        raise ProviderMisconfigured(
            f"discovery of {issuer} found the metadata of another issuer at {url}: {_mend(named, url, insecure_hosts)}",
            code="issuer_mismatch",
            provider=provider,
        )
    metadata = ServerMetadata.from_members(members)
    metadata.endpoint("token_endpoint", provider=provider, insecure_hosts=insecure_hosts)
    return metadata


def _mend(named: object, url: str, insecure_hosts: frozenset[str]) -> str:
    """Say what the metadata at `url` calls its issuer, and how to configure that."""
    try:
        require_secure_url("the issuer in it", named, insecure_hosts=insecure_hosts)
    except ConfigurationError as exc:  # such as a server that does not know that a proxy before it speaks https
        return f"{exc}; correct that at the server"
    advice = f"the server calls itself {printable(named)!r}; if you mean that server, pass exactly that as issuer"
    return advice if url in metadata_urls(str(named)) else f"{advice}, and {url!r} as metadata_url"


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
