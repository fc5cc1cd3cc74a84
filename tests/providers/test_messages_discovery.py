"""Which URLs may be given or advertised, and what a discovery reply has to be."""

import json
from ipaddress import ip_address
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.strategies import json_values
from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    ProviderMisconfigured,
    ProviderUnavailable,
    TokenRefreshError,
)
from tokenflight.providers.messages import (
    DiscoveryDocument,
    Reply,
    is_loopback,
    parse_discovery_reply,
    require_secure_url,
)

ISSUER = "https://idp.example/tenant"
METADATA = {
    "issuer": ISSUER,
    "token_endpoint": "https://idp.example/tenant/token",
    "jwks_uri": "https://idp.example/jwks",
}


def parse(reply: Reply) -> DiscoveryDocument:
    return parse_discovery_reply(reply, issuer=ISSUER, provider="idp")


def reply(metadata: object, status: int = 200) -> Reply:
    return Reply(status, {}, json.dumps(metadata).encode())


def error_in(given_reply: Reply) -> TokenRefreshError:
    with pytest.raises(TokenRefreshError) as caught:
        parse(given_reply)
    assert caught.value.provider == "idp"
    return caught.value


# URLs


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


urls = st.text() | st.builds(
    "{}://{}{}".format,
    st.sampled_from(["http", "https", "HTTP", "ftp", ""]),
    st.sampled_from(["", "[", "::1", "[::1]", "localhost", "127.0.0.1", "evil.example", "a@", "\\", "%00"]) | st.text(),
    st.sampled_from(["", "/", ":", ":0", ":x", "#", "@evil.example", ".localhost", "\\@evil.example"]) | st.text(),
)


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


# Discovery


def test_r10_valid_metadata_gives_the_token_endpoint() -> None:
    assert parse(reply(METADATA)) == DiscoveryDocument(ISSUER, "https://idp.example/tenant/token")


@pytest.mark.parametrize(
    "issuer",
    [ISSUER + "/", ISSUER.upper(), "http://idp.example/tenant", "https://evil.example", "", None, 5, [ISSUER]],
)
def test_r10_metadata_of_any_other_issuer_is_refused(issuer: object) -> None:
    error = error_in(reply({**METADATA, "issuer": issuer}))

    assert type(error) is ProviderMisconfigured
    assert error.code == "issuer_mismatch"


def test_r10_metadata_without_an_issuer_is_refused() -> None:
    assert error_in(reply({"token_endpoint": METADATA["token_endpoint"]})).code == "issuer_mismatch"


@pytest.mark.parametrize(
    "endpoint",
    ["http://idp.example/token", "https://user:password@idp.example/", "/token", "", None, 5, ["https://idp.example/"]],
)
def test_r10_an_endpoint_that_is_not_secure_is_refused(endpoint: object) -> None:
    error = error_in(reply({**METADATA, "token_endpoint": endpoint}))

    assert type(error) is ProviderMisconfigured
    assert error.code == "insecure_endpoint"


@pytest.mark.parametrize("endpoint", ["http://localhost:5000/token", "http://[::1]/token"])
def test_r10_an_endpoint_on_this_machine_may_be_plain_http(endpoint: str) -> None:
    assert parse(reply({**METADATA, "token_endpoint": endpoint})).token_endpoint == endpoint


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503, 599])
def test_r10_a_busy_or_failing_server_is_transient(status: int) -> None:
    error = error_in(reply(METADATA, status))

    assert type(error) is ProviderUnavailable
    assert error.code == "discovery_failed"


def test_t5_a_busy_server_may_say_when_to_come_back() -> None:
    error = error_in(Reply(503, {"retry-after": "30"}, b""))

    assert isinstance(error, ProviderUnavailable)
    assert error.retry_after == 30


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 401, 403, 404])
def test_r10_any_other_status_points_at_the_issuer(status: int) -> None:
    error = error_in(reply(METADATA, status))

    assert type(error) is ProviderMisconfigured
    assert error.code == "discovery_failed"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<!doctype html>", id="HTML"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(json.dumps(METADATA).encode()[:-5], id="truncated"),
        pytest.param(json.dumps(METADATA).encode("utf-16"), id="UTF-16"),
        pytest.param(b"[" * 100_000, id="nested"),
        pytest.param(b'{"issuer": "a", "issuer": "b"}', id="duplicate names"),
    ],
)
def test_r10_a_reply_that_is_no_json_object_is_invalid(body: bytes) -> None:
    assert type(error_in(Reply(200, {}, body))) is InvalidProviderResponse


bodies = (
    st.binary(max_size=200)
    | json_values.map(lambda value: json.dumps(value).encode())
    | (json_values | urls).map(lambda value: json.dumps({**METADATA, "token_endpoint": value}).encode())
)


@settings(max_examples=300)
@given(
    status=st.sampled_from([200]) | st.integers(100, 599),
    headers=st.dictionaries(st.just("retry-after"), st.text()),
    body=bodies,
)
def test_r10_whatever_arrives_is_valid_metadata_or_an_error_of_the_tree(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    try:
        document = parse(Reply(status, headers, body))
    except TokenRefreshError:
        return
    assert (status, document.issuer) == (200, ISSUER)
    require_secure_url("token_endpoint", document.token_endpoint)
