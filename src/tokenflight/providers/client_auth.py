"""How this app proves to an authorization server which client it is (RFC 6749 §2.3, OpenID Connect Core §9)."""

import base64
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote_plus

from tokenflight._checks import require_text
from tokenflight.errors import ConfigurationError
from tokenflight.providers.metadata import ServerMetadata
from tokenflight.providers.requests import Request


class ClientAuthentication(Protocol):
    """Adds to a request what identifies the client: headers, form parameters, or both."""

    @property
    def client_id(self) -> str:
        """The client's identifier at the provider (RFC 6749 §2.2)."""
        ...

    async def authenticate(self, request: Request, server: ServerMetadata, /) -> Request:
        """Return `request` with the client's proof for `server`; `Request.adding` makes it.

        Awaited once for each time that the request is sent, so that an assertion can have a ``jti`` of its own
        (RFC 7523 §3) and may be signed elsewhere. It names its secrets in `Request.secrets`.
        """
        ...


@dataclass(frozen=True, slots=True)
class ClientSecretBasic:
    """``client_secret_basic``: the credentials in an HTTP Basic header, form-encoded first (RFC 6749 §2.3.1)."""

    client_id: str
    client_secret: str = field(repr=False)

    def __post_init__(self) -> None:
        _require_encodable("client_id", self.client_id)
        _require_encodable("client_secret", self.client_secret)

    async def authenticate(self, request: Request, _server: ServerMetadata) -> Request:
        """Add the ``Authorization`` header."""
        password = quote_plus(self.client_secret)
        credentials = base64.b64encode(f"{quote_plus(self.client_id)}:{password}".encode()).decode()
        return request.adding(
            headers={"Authorization": f"Basic {credentials}"},
            secrets=(self.client_secret, password, credentials),
        )


@dataclass(frozen=True, slots=True)
class ClientSecretPost:
    """``client_secret_post``: the credentials as form parameters (RFC 6749 §2.3.1)."""

    client_id: str
    client_secret: str = field(repr=False)

    def __post_init__(self) -> None:
        _require_encodable("client_id", self.client_id)
        _require_encodable("client_secret", self.client_secret)

    async def authenticate(self, request: Request, _server: ServerMetadata) -> Request:
        """Add ``client_id`` and ``client_secret`` to the form."""
        return request.adding(
            parameters={"client_id": self.client_id, "client_secret": self.client_secret},
            secrets=(self.client_secret,),
        )


@dataclass(frozen=True, slots=True)
class PublicClient:
    """``none``: a client that can't keep a secret only names itself (RFC 6749 §3.2.1)."""

    client_id: str

    def __post_init__(self) -> None:
        _require_encodable("client_id", self.client_id)

    async def authenticate(self, request: Request, _server: ServerMetadata) -> Request:
        """Add ``client_id`` to the form."""
        return request.adding(parameters={"client_id": self.client_id})


def _require_encodable(name: str, value: str) -> None:
    require_text(name, value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{name} holds characters that UTF-8 can't encode") from None
