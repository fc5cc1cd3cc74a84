"""What Hypothesis draws from: JSON as a provider may send it, token sets, and URLs."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tokenflight.stores import RenewalFailure, StoredTokens, new_version
from tokenflight.tokens import Target, TokenSet

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
"""What `json.loads` can return, NaN and infinities included."""

comparable_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
"""What equals itself after a way through JSON."""

times = st.none() | st.integers(1_600_000_000, 1_900_000_000) | st.floats(1_600_000_000, 1_900_000_000)

token_sets = st.builds(
    TokenSet,
    access_token=st.text(min_size=1),
    token_type=st.sampled_from(["Bearer", "DPoP"]),
    expires_at=times,
    refresh_token=st.none() | st.text(min_size=1),
    scope=st.none() | st.text(min_size=1),
    id_token=st.none() | st.text(min_size=1),
    issued_at=times,
    extra=st.dictionaries(st.text(), comparable_json_values, max_size=3),
    refresh_token_expires_at=times,
    refresh_at=times,
)

urls = st.text() | st.builds(
    "{}://{}{}".format,
    st.sampled_from(["http", "https", "HTTP", "ftp", ""]),
    st.sampled_from(["", "[", "::1", "[::1]", "localhost", "127.0.0.1", "evil.example", "a@", "\\", "%00"]) | st.text(),
    st.sampled_from(["", "/", ":", ":0", ":x", "#", "@evil.example", ".localhost", "\\@evil.example"]) | st.text(),
)
"""Whole URLs, broken ones, and text that is none."""
targets = st.builds(Target, *[st.none() | st.text(min_size=1)] * 3).filter(lambda target: target != Target())

failures = st.builds(
    RenewalFailure,
    kind=st.text(),
    code=st.text(),
    at=st.floats(allow_nan=False, allow_infinity=False),
    until=st.floats(allow_nan=False, allow_infinity=False),
    count=st.integers(1, 2**31),
    error=st.none() | st.text(),
)

records = st.builds(
    StoredTokens,
    token_sets,
    st.builds(new_version),
    issuer=st.none() | st.text(),
    failure=st.none() | failures,
    refused=st.booleans(),
    access_tokens=st.dictionaries(
        targets,
        st.builds(
            replace,
            token_sets,
            refresh_token=st.none(),
            refresh_token_expires_at=st.none(),
            id_token=st.none(),
            extra=st.just({}),
        ),
    ),
)


def nested(depth: int) -> dict[str, Any]:
    """An object in an object in an object …"""
    innermost: dict[str, Any] = {}
    for _ in range(depth):
        innermost = {"deeper": innermost}
    return innermost
