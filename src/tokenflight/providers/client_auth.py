"""How this app proves to the token endpoint which client it is (RFC 6749 §2.3, OpenID Connect Core §9)."""

import base64
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote_plus

from tokenflight._checks import require_text
from tokenflight.errors import ConfigurationError


class ClientAuthentication(Protocol):
    """Adds to a token request what identifies the client: headers, form parameters, or both."""

    @property
    def client_id(self) -> str:
        """The client's identifier at the provider (RFC 6749 §2.2)."""
        ...

    def headers(self) -> dict[str, str]:
        """Header fields for the token request."""
        ...

    def parameters(self) -> dict[str, str]:
        """Form parameters for the token request."""
        ...


@dataclass(frozen=True, slots=True)
class ClientSecretBasic:
    """``client_secret_basic``: the credentials in an HTTP Basic header, form-encoded first (RFC 6749 §2.3.1)."""

    client_id: str
    client_secret: str = field(repr=False)

    def __post_init__(self) -> None:
        _require_encodable("client_id", self.client_id)
        _require_encodable("client_secret", self.client_secret)

    def headers(self) -> dict[str, str]:
        """The ``Authorization`` header."""
        credentials = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}"
        return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}

    def parameters(self) -> dict[str, str]:
        """Nothing: the header says it all."""
        return {}


@dataclass(frozen=True, slots=True)
class ClientSecretPost:
    """``client_secret_post``: the credentials as form parameters (RFC 6749 §2.3.1)."""

    client_id: str
    client_secret: str = field(repr=False)

    def __post_init__(self) -> None:
        _require_encodable("client_id", self.client_id)
        _require_encodable("client_secret", self.client_secret)

    def headers(self) -> dict[str, str]:
        """Nothing: the form says it all."""
        return {}

    def parameters(self) -> dict[str, str]:
        """``client_id`` and ``client_secret``."""
        return {"client_id": self.client_id, "client_secret": self.client_secret}


@dataclass(frozen=True, slots=True)
class PublicClient:
    """``none``: a client that can't keep a secret only names itself (RFC 6749 §3.2.1)."""

    client_id: str

    def __post_init__(self) -> None:
        _require_encodable("client_id", self.client_id)

    def headers(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def parameters(self) -> dict[str, str]:
        """``client_id``."""
        return {"client_id": self.client_id}


def _require_encodable(name: str, value: str) -> None:
    require_text(name, value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{name} holds characters that UTF-8 can't encode") from None
