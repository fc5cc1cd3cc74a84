"""The claims of a JWT, read without a check of its signature."""

import base64
import json
from collections.abc import Mapping
from typing import Final

_MAX_CHARACTERS: Final = 64 * 1024
_PARTS: Final = 3


def unverified_claims(token: str) -> Mapping[str, object]:
    """The claims of a signed JWT (RFC 7519), empty if `token` is none.

    Because the signature is not checked, the claims may only be used to compare tokens that came from the same
    provider, never to log a user in.
    """
    parts = token.split(".", _PARTS) if len(token) <= _MAX_CHARACTERS else []
    if len(parts) != _PARTS:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):  # no base64, no UTF-8 or no JSON
        return {}
    return claims if isinstance(claims, dict) else {}
