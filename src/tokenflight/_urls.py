"""Which URLs tokenflight trusts with a secret, judged by their form alone: nothing is resolved or sent."""

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from tokenflight._checks import printable
from tokenflight.errors import ConfigurationError

_WHITE_SPACE_OR_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]")
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


def require_secure_url(name: str, url: object) -> None:
    """Raise `ConfigurationError`, which names the argument, unless `url` is safe to send a secret to.

    It must be https, or plain http to a loopback address, without a fragment and without credentials.
    """
    if (problem := _problem_with(url)) is not None:
        raise ConfigurationError(f"{name} {problem}: {printable(url)!r}")


def origin_of(url: str) -> str:
    """Return the origin of `url`, which has passed `require_secure_url` (RFC 6454 §6.2)."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    authority = f"[{host}]" if ":" in host else host
    port = "" if parts.port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{parts.port}"
    return f"{parts.scheme}://{authority}{port}"


def is_loopback(host: str) -> bool:
    """Whether `host` is a name or address of this machine by its form alone (RFC 6761 §6.3)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _problem_with(url: object) -> str | None:
    if not isinstance(url, str):
        return "must be an absolute URL"
    if _WHITE_SPACE_OR_CONTROL.search(url):
        return "must have neither white space nor control characters in it"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # urlsplit parses the authority only when it is read
    except ValueError:
        return "must be an absolute URL"
    if parts.fragment or parts.username is not None:
        return "must have neither a fragment nor credentials in it"
    if not host:
        return "must be an absolute URL"
    is_secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    return None if is_secure else "must be https (plain http is for loopback addresses only)"
