"""The URLs to which tokenflight sends a secret, judged by their form alone: no function resolves or sends anything."""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

from tokenflight._checks import printable
from tokenflight.errors import ConfigurationError

_WHITE_SPACE_OR_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]")
_HOST_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9_])?", re.IGNORECASE)
"""Underscores are allowed because services of a compose file have them, although hosts on the internet have none."""

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


def require_secure_url(
    name: str, url: object, *, insecure_hosts: frozenset[str] = frozenset(), allow_loopback: bool = True
) -> None:
    """Raise `ConfigurationError`, which names the argument, unless `url` is safe to send a secret to.

    It must be https, without a fragment and without credentials. Plain http is allowed for `insecure_hosts`, a result
    of `checked_hosts`, and, with `allow_loopback`, for this machine.
    """
    if (problem := _problem_with(url, insecure_hosts, allow_loopback=allow_loopback)) is not None:
        raise ConfigurationError(f"{name} {problem}: {printable(url)!r}")


def checked_hosts(name: str, hosts: Iterable[str]) -> frozenset[str]:
    """Return `hosts` in normal form; raise `ConfigurationError`, which names the argument, if one is not a host."""
    if isinstance(hosts, str | bytes) or not isinstance(hosts, Iterable):
        raise ConfigurationError(f"{name} must be a collection of host names, not a {type(hosts).__name__}")
    return frozenset(_checked_host(name, host) for host in hosts)


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
    address = _address(host)
    return address is not None and address.is_loopback


def _problem_with(url: object, insecure_hosts: frozenset[str], *, allow_loopback: bool) -> str | None:
    if not isinstance(url, str):
        return "must be an absolute URL"
    if url != url.strip():
        return "must have no white space around it; pass exactly"
    if _WHITE_SPACE_OR_CONTROL.search(url):
        return "must have neither white space nor control characters in it"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # urlsplit parses the authority only when it is read
    except ValueError:
        return "must be an absolute URL"
    if parts.fragment or parts.username is not None:
        return "must have neither a fragment nor credentials in it"
    return _problem_with_origin(parts.scheme, host, insecure_hosts, allow_loopback=allow_loopback)


def _problem_with_origin(
    scheme: str, host: str | None, insecure_hosts: frozenset[str], *, allow_loopback: bool
) -> str | None:
    if not host:
        return "must be an absolute URL"
    if scheme == "https":
        return None
    if scheme == "http" and (_spelling(host) in insecure_hosts or (allow_loopback and is_loopback(host))):
        return None
    this_machine = "this machine and " if allow_loopback else ""
    return f"must be https (plain http is for {this_machine}hosts named in insecure_hosts)"


def _checked_host(name: str, host: object) -> str:
    if isinstance(host, str) and (_HOST_NAME.fullmatch(host) or _address(host) is not None):
        return _spelling(host)
    given = repr(printable(host)) if isinstance(host, str) else f"a {type(host).__name__}"
    raise ConfigurationError(f"{name} must hold bare host names or addresses, such as 'keycloak', not {given}")


def _spelling(host: str) -> str:
    """Return the normal form of `host`, which is the same for all its spellings."""
    address = _address(host)
    return host.lower() if address is None else str(address)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
