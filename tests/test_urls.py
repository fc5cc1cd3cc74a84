"""Which URLs may be sent a secret, and what an origin is."""

from ipaddress import ip_address
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.strategies import urls
from tokenflight._urls import is_loopback, require_secure_url
from tokenflight.errors import ConfigurationError


@pytest.mark.parametrize(
    "url",
    [
        "https://idp.example",
        "https://idp.example:8443/a/b?tenant=c",
        "HTTPS://IDP.example/",
        "https://[2001:db8::1]/",
        "https://münchen.example/",
        "http://localhost",
        "http://LOCALHOST:8080/token",
        "http://idp.localhost/",
        "http://127.0.0.1:5000/",
        "http://127.8.9.1/",
        "http://[::1]:5000/",
    ],
)
def test_https_is_accepted_and_so_is_plain_http_to_this_machine(url: str) -> None:
    require_secure_url("issuer", url)


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example/",
        "http://localhost.idp.example/",
        "http://127.0.0.1.idp.example/",
        "http://notlocalhost/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://[2001:db8::1]/",
        "http://169.254.169.254/",
        "ftp://idp.example/",
        "ws://localhost/",
        "file://localhost/etc/passwd",
        "//idp.example/",
    ],
)
def test_a3_plain_http_elsewhere_and_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="issuer must be https"):
        require_secure_url("issuer", url)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:password@idp.example/",
        "https://user@idp.example/",
        "https://@idp.example/",
        "http://localhost@evil.example/",
        "http://127.0.0.1\\@evil.example/",
        "https://idp.example/#fragment",
    ],
)
def test_credentials_and_fragments_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="issuer must have neither a fragment nor credentials"):
        require_secure_url("issuer", url)


@pytest.mark.parametrize(
    "url",
    [
        *(None, 5, b"https://idp.example", "", "idp.example", "/token", "https:", "https://", "https:///t"),
        *("https://idp.example:port", "https://idp.example:99999", "https://[::1", "https://[nonsense]/"),
        "https://:443/",
    ],
)
def test_what_is_no_absolute_url_is_refused_by_name(url: object) -> None:
    with pytest.raises(ConfigurationError, match="token_endpoint must be an absolute URL"):
        require_secure_url("token_endpoint", url)


@pytest.mark.parametrize(
    "url",
    [
        " https://idp.example/",
        "https://idp.example/\n",
        "https://idp\n.example/",
        "https://idp.example/a\tb",
        "https://idp.exa mple/",
        "https://idp.example/\x00",
        "https://idp.example/\r\nX-Admin: 1",
    ],
)
def test_a_url_with_white_space_or_control_characters_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="issuer"):
        require_secure_url("issuer", url)


def test_l1_a_refused_url_is_shown_in_one_short_line() -> None:
    with pytest.raises(ConfigurationError) as caught:
        require_secure_url("issuer", "http://idp.example/\x1b[31m" + "x" * 10_000)

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@settings(max_examples=300)
@given(urls)
def test_any_text_is_a_secure_url_or_a_configuration_error(url: str) -> None:
    said = "issuer must, or may"
    try:
        require_secure_url("issuer", url)
    except ConfigurationError as error:
        said = str(error)

    assert said.startswith("issuer must")


@settings(max_examples=300)
@given(urls)
def test_a3_plain_http_that_is_accepted_goes_to_this_machine_as_the_http_library_reads_it(url: str) -> None:
    try:
        require_secure_url("issuer", url)
        host = httpx.URL(url).host
    except (ConfigurationError, httpx.InvalidURL):
        return
    assert httpx.URL(url).scheme == "https" or is_loopback(host)


@pytest.mark.parametrize(
    ("host", "expected"), [("localhost", True), ("a.localhost", True), ("::1", True), ("localhos", False)]
)
def test_this_machine_is_known_by_the_form_of_its_name(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@given(st.ip_addresses())
def test_an_address_is_this_machine_if_it_is_a_loopback_address(address: Any) -> None:
    assert is_loopback(str(address)) is ip_address(str(address)).is_loopback
