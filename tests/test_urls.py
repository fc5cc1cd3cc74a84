"""Which URLs may be sent a secret, and what an origin is."""

from ipaddress import ip_address
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.strategies import urls
from tokenflight._urls import checked_hosts, is_loopback, require_secure_url
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


@pytest.mark.parametrize("url", [" https://idp.example/", "https://idp.example/\n", "\u00a0https://idp.example/\t "])
def test_white_space_around_a_url_is_refused_with_the_url_to_pass(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no white space around it; pass exactly: 'https://idp\.example/'$"):
        require_secure_url("issuer", url)


# Hosts that the app names


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (["keycloak"], "http://keycloak:8080/realms/main"),
        (["KeyCloak"], "http://keycloak"),
        (("auth_server", "other"), "http://AUTH_SERVER/token"),
        ({"idp.mesh.internal"}, "http://idp.mesh.internal/"),
        (["10.0.0.1"], "http://10.0.0.1:8080/"),
        (["2001:DB8:0::1"], "http://[2001:db8::1]/"),
        (["localhost"], "http://localhost/"),
        (["idp.example"], "https://other.example/"),
    ],
)
def test_n6_plain_http_is_accepted_at_a_host_that_was_named(hosts: Any, url: str) -> None:
    require_secure_url("issuer", url, insecure_hosts=checked_hosts("insecure_hosts", hosts), allow_loopback=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://keycloak.example/",
        "http://my.keycloak/",
        "http://keycloak./",
        "http://other/",
        "http://keycloak@evil.example/",
        "http://evil.example/keycloak",
        "http://evil.example\\@keycloak/",
        "ftp://keycloak/",
    ],
)
def test_n6_naming_a_host_allows_plain_http_nowhere_else(url: str) -> None:
    with pytest.raises(ConfigurationError, match="issuer must"):
        require_secure_url("issuer", url, insecure_hosts=frozenset({"keycloak"}))


@pytest.mark.parametrize("url", ["http://localhost/token", "http://127.0.0.1/token", "http://[::1]/token"])
def test_n6_plain_http_to_this_machine_can_be_refused_too(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"token_endpoint must be https \(plain http is for hosts named in"):
        require_secure_url("token_endpoint", url, allow_loopback=False)


@pytest.mark.parametrize(
    "host",
    [
        *("", "*", "*.internal", ".internal", "keycloak.", "-a", "key cloak", " keycloak", "a" * 254, "münchen"),
        *("http://keycloak", "keycloak:8080", "keycloak/realms", "user@keycloak", "[::1]", "10.0.0.0/8"),
        *(None, 5, b"keycloak"),
    ],
)
def test_n6_a_host_that_is_none_is_refused_by_name(host: object) -> None:
    hosts: Any = ["idp", host]
    with pytest.raises(ConfigurationError, match="insecure_hosts must hold bare host names or addresses"):
        checked_hosts("insecure_hosts", hosts)


@pytest.mark.parametrize("hosts", ["keycloak", b"keycloak", None, 5])
def test_n6_hosts_are_a_collection_and_no_single_text(hosts: Any) -> None:
    with pytest.raises(ConfigurationError, match="insecure_hosts must be a collection"):
        checked_hosts("insecure_hosts", hosts)


# Whatever is given


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


@settings(max_examples=300)
@given(urls)
def test_n6_plain_http_that_is_accepted_goes_to_the_named_host_as_the_http_library_reads_it(url: str) -> None:
    try:
        require_secure_url("issuer", url, insecure_hosts=frozenset({"evil.example"}), allow_loopback=False)
        host = httpx.URL(url).host
    except (ConfigurationError, httpx.InvalidURL):
        return
    assert httpx.URL(url).scheme == "https" or host.lower() == "evil.example"


@pytest.mark.parametrize(
    ("host", "expected"), [("localhost", True), ("a.localhost", True), ("::1", True), ("localhos", False)]
)
def test_this_machine_is_known_by_the_form_of_its_name(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@given(st.ip_addresses())
def test_an_address_is_this_machine_if_it_is_a_loopback_address(address: Any) -> None:
    assert is_loopback(str(address)) is ip_address(str(address)).is_loopback
