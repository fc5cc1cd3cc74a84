"""What can go wrong at a provider, as named values for `FakeProvider.fail`.

With `Delay` the provider acts late, with `DropReply` it acts and the client does not learn of it. With all others it
does not act: a refresh token that was sent is still good.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

HUGE_REPLY_BYTES: Final = 10 * 1024 * 1024

Endpoint: TypeAlias = Literal["token", "discovery", "api"]
"""The endpoints at which `FakeProvider` can fail or hold a request."""


@dataclass(frozen=True, slots=True)
class Delay:
    """The provider takes `seconds` before it acts. It acts even if the client has given up by then."""

    seconds: float


@dataclass(frozen=True, slots=True)
class DropRequest:
    """The connection is closed before the provider acts."""


@dataclass(frozen=True, slots=True)
class DropReply:
    """The provider acts, a refresh token is spent, and the connection is closed without a reply."""


@dataclass(frozen=True, slots=True)
class ServerError:
    """A plain-text reply with `status`."""

    status: int = 500


@dataclass(frozen=True, slots=True)
class RateLimited:
    """A 429. `retry_after` is its ``Retry-After``: whole seconds, any other string as it is, or none at all."""

    retry_after: int | str | None = None


@dataclass(frozen=True, slots=True)
class HTMLReply:
    """A 200 with a web page, as from a captive portal or a gateway's login page."""


@dataclass(frozen=True, slots=True)
class GarbageReply:
    """A 200 that claims to be JSON and has `body` instead."""

    body: bytes = field(default=b"\x00\xff not json", repr=False)


@dataclass(frozen=True, slots=True)
class HugeReply:
    """A token reply with nothing wrong but its size: `size_bytes` of padding. No API takes its access token."""

    size_bytes: int = HUGE_REPLY_BYTES


@dataclass(frozen=True, slots=True)
class WrongIssuer:
    """A discovery document that calls its issuer `issuer`; for the discovery endpoint only."""

    issuer: str = "https://wrong-issuer.example"


@dataclass(frozen=True, slots=True)
class Redirect:
    """A 307 to the URL `to`: a client that follows it sends method and body again, and with them a refresh token."""

    to: str


@dataclass(frozen=True, slots=True)
class OAuthError:
    """An error reply of the token endpoint (RFC 6749 §5.2), or a challenge of the API (RFC 6750 §3)."""

    error: str
    description: str | None = None
    status: int = 400


CannedFault: TypeAlias = ServerError | RateLimited | HTMLReply | GarbageReply | HugeReply | Redirect | OAuthError
"""The faults that are nothing but a reply."""

Fault: TypeAlias = Delay | DropRequest | DropReply | WrongIssuer | CannedFault
