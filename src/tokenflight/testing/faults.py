"""The faults of a provider, as named values for `FakeProvider.fail`.

With `Delay` the provider acts late. With `DropReply` it acts, and the client gets no reply. With all others it does not
act: a refresh token that was sent is still good.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

HUGE_REPLY_BYTES: Final = 10 * 1024 * 1024

Endpoint: TypeAlias = Literal["token", "discovery", "api"]
"""The endpoints at which `FakeProvider` can fail or hold a request."""

PauseForm: TypeAlias = Literal[
    "Retry-After",
    "Retry-After date",
    "X-Rate-Limit-Reset",
    "X-RateLimit-Reset-After",
    "RateLimit-Reset",
    "RateLimit",
    "body",
]
"""The place in a 429 that states how long to wait.

``"Retry-After"`` has seconds, ``"Retry-After date"`` the moment as an HTTP date (RFC 9110 §10.2.3).
``"X-Rate-Limit-Reset"`` has the moment in POSIX seconds, as at Okta; ``"X-RateLimit-Reset-After"`` and
``"RateLimit-Reset"`` have seconds; ``"RateLimit"`` has them beside the policy's name, as the IETF's draft says.
``"body"`` is a JSON object with ``retry_after`` in seconds, as at Discord.
"""


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
    """A 429 (RFC 6585 §4) that asks for a pause of `retry_after` seconds, or for none in particular.

    `told_by` is the place of the pause in the reply; see `PauseForm`. A string as `retry_after` is sent unchanged.
    """

    retry_after: float | str | None = None
    told_by: PauseForm = "Retry-After"


@dataclass(frozen=True, slots=True)
class HTMLReply:
    """A 200 with a web page, such as one from a captive portal."""


@dataclass(frozen=True, slots=True)
class GarbageReply:
    """A 200 that claims to be JSON and has `body` instead."""

    body: bytes = field(default=b"\x00\xff not json", repr=False)


@dataclass(frozen=True, slots=True)
class HugeReply:
    """A token reply that is sound but for its size: `size_bytes` of padding. No API accepts its access token."""

    size_bytes: int = HUGE_REPLY_BYTES


@dataclass(frozen=True, slots=True)
class WrongIssuer:
    """A discovery document that calls its issuer `issuer`; for the discovery endpoint only."""

    issuer: str = "https://wrong-issuer.example"


@dataclass(frozen=True, slots=True)
class Redirect:
    """A 307 to the URL `to`: a client that follows it sends the method and the body again, with the refresh token."""

    to: str


@dataclass(frozen=True, slots=True)
class OAuthError:
    """An error reply of the token endpoint (RFC 6749 §5.2), or a challenge of the API (RFC 6750 §3)."""

    error: str
    description: str | None = None
    status: int = 400


@dataclass(frozen=True, slots=True)
class VendorError:
    """A JSON object that reports an error in a vendor's own way, at some vendors with status 200.

    `tokenflight.testing.dialects` has the ones that are in use.
    """

    members: Mapping[str, object]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


CannedFault: TypeAlias = (
    ServerError | RateLimited | HTMLReply | GarbageReply | HugeReply | Redirect | OAuthError | VendorError
)
"""The faults that consist of a reply alone."""

Fault: TypeAlias = Delay | DropRequest | DropReply | WrongIssuer | CannedFault
