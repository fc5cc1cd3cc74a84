"""V1, V5: forms of replies that two members or a wrong header tell apart."""

import json
from urllib.parse import urlencode

import pytest

from tokenflight.providers._replies.reading import Tokens, read_token_reply

NOW = 1_800_000_000.0


def read(body: bytes, **headers: str) -> Tokens:
    reading = read_token_reply(200, headers, body, now=NOW)
    assert isinstance(reading, Tokens)
    return reading


@pytest.mark.parametrize("coding", ["UTF-8", "utf-8", "none", "binary"])
def test_v1_a_form_under_a_header_that_names_no_compression_is_read(coding: str) -> None:
    form = urlencode({"access_token": "at-1", "refresh_token": "rt-1", "expires_in": "3600"}).encode()
    assert read(form, **{"content-encoding": coding}).members["refresh_token"] == "rt-1"


def test_v5_a_lifetime_in_milliseconds_is_told_by_the_moment_beside_it() -> None:
    for lifetime in (3_600_000, 3600):
        members = {"access_token": "at-1", "expires_in": lifetime, "expires_at": NOW + 3600}
        assert read(json.dumps(members).encode()).members["expires_in"] == 3600
