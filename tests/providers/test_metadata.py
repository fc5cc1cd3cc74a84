"""What a discovery reply has to be, and how its members are read."""

import dataclasses
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.strategies import json_values, urls
from tokenflight._urls import require_secure_url
from tokenflight.errors import (
    InvalidProviderResponse,
    ProviderMisconfigured,
    ProviderUnavailable,
    TokenRefreshError,
)
from tokenflight.providers.metadata import ServerMetadata, parse_metadata_reply
from tokenflight.providers.replies import Reply

ISSUER = "https://idp.example/tenant"
URL = f"{ISSUER}/.well-known/openid-configuration"
METADATA = {
    "issuer": ISSUER,
    "token_endpoint": "https://idp.example/tenant/token",
    "jwks_uri": "https://idp.example/jwks",
}
ENDPOINTS = [
    *("authorization_endpoint", "token_endpoint", "device_authorization_endpoint", "end_session_endpoint"),
    *("introspection_endpoint", "jwks_uri", "pushed_authorization_request_endpoint", "registration_endpoint"),
    *("revocation_endpoint", "userinfo_endpoint"),
]


def parse(
    reply: Reply, *, issuer: str = ISSUER, url: str = URL, insecure_hosts: frozenset[str] = frozenset()
) -> ServerMetadata:
    return parse_metadata_reply(reply, issuer=issuer, url=url, provider="idp", insecure_hosts=insecure_hosts)


def reply(metadata: object, status: int = 200) -> Reply:
    return Reply(status, {}, json.dumps(metadata).encode())


def error_in(given_reply: Reply, *, url: str = URL, insecure_hosts: frozenset[str] = frozenset()) -> TokenRefreshError:
    with pytest.raises(TokenRefreshError) as caught:
        parse(given_reply, url=url, insecure_hosts=insecure_hosts)
    assert caught.value.provider == "idp"
    return caught.value


def test_r10_valid_metadata_gives_the_token_endpoint() -> None:
    metadata = parse(reply(METADATA))

    assert metadata == ServerMetadata(
        issuer=ISSUER, token_endpoint="https://idp.example/tenant/token", jwks_uri="https://idp.example/jwks"
    )


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
    ("named", "url", "mend"),
    [
        pytest.param(
            f"{ISSUER}/",
            URL,
            f"the server calls itself '{ISSUER}/'; if you mean that server, pass exactly that as issuer",
            id="a slash at the end",
        ),
        pytest.param(
            "https://IdP.example",
            "https://IdP.example/.well-known/oauth-authorization-server",
            "the server calls itself 'https://IdP.example'; if you mean that server, pass exactly that as issuer",
            id="upper case",
        ),
        pytest.param(
            "https://login.microsoftonline.com/{tenantid}/v2.0",
            URL,
            "the server calls itself 'https://login.microsoftonline.com/{tenantid}/v2.0'; if you mean that server, "
            f"pass exactly that as issuer, and '{URL}' as metadata_url",
            id="a server for many tenants",
        ),
        pytest.param(
            "http://idp.example/tenant",
            URL,
            "the issuer in it must be https (plain http is for this machine and hosts named in insecure_hosts): "
            "'http://idp.example/tenant'; correct that at the server",
            id="a server behind a proxy",
        ),
        pytest.param(None, URL, "the issuer in it must be an absolute URL: ''; correct that at the server", id="none"),
    ],
)
def test_r10_an_issuer_mismatch_is_told_with_its_mend(named: object, url: str, mend: str) -> None:
    error = error_in(reply({**METADATA, "issuer": named}), url=url)

    assert str(error) == f"discovery of {ISSUER} found the metadata of another issuer at {url}: {mend}"


@pytest.mark.parametrize(
    "endpoint",
    ["http://idp.example/token", "https://user:password@idp.example/", "/token", "", None, 5, ["https://idp.example/"]],
)
def test_r10_an_endpoint_that_is_not_secure_is_refused(endpoint: object) -> None:
    error = error_in(reply({**METADATA, "token_endpoint": endpoint}))

    assert type(error) is ProviderMisconfigured
    assert error.code == "insecure_endpoint"


LOOPBACK_ENDPOINTS = ["http://localhost:5000/token", "http://127.0.0.1/token", "http://[::1]/token"]


@pytest.mark.parametrize("endpoint", LOOPBACK_ENDPOINTS)
def test_r10_an_endpoint_on_this_machine_may_be_plain_http_as_its_issuer_is(endpoint: str) -> None:
    metadata = parse(reply({"issuer": "http://localhost", "token_endpoint": endpoint}), issuer="http://localhost")

    assert metadata.token_endpoint == endpoint


@pytest.mark.parametrize("endpoint", LOOPBACK_ENDPOINTS)
def test_n6_metadata_of_an_https_issuer_leads_to_no_plain_http_not_even_on_this_machine(endpoint: str) -> None:
    error = error_in(reply({**METADATA, "token_endpoint": endpoint}))

    assert type(error) is ProviderMisconfigured
    assert error.code == "insecure_endpoint"


def test_n6_metadata_leads_to_plain_http_at_a_named_host() -> None:
    endpoints = {"token_endpoint": "http://keycloak:8080/token", "revocation_endpoint": "http://KEYCLOAK/revoke"}
    hosts = frozenset({"keycloak"})
    metadata = parse(reply({**METADATA, **endpoints}), insecure_hosts=hosts)

    for name, url in endpoints.items():
        assert metadata.endpoint(name, provider="idp", insecure_hosts=hosts) == url
        with pytest.raises(ProviderMisconfigured, match="insecure_hosts"):
            metadata.endpoint(name, provider="idp")
    assert error_in(reply({**METADATA, "token_endpoint": "http://other/token"}), insecure_hosts=hosts).code == (
        "insecure_endpoint"
    )


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
        pytest.param(b"issuer=https://idp.example&error=none", id="a form"),
        pytest.param(b"[" * 100_000, id="nested"),
        pytest.param(b'{"issuer": "a", "issuer": "b"}', id="duplicate names"),
    ],
)
def test_r10_a_reply_that_is_no_json_object_is_invalid(body: bytes) -> None:
    assert type(error_in(Reply(200, {}, body))) is InvalidProviderResponse


# Bytes


def encoded(text: bytes, content_type: str | None = None) -> Reply:
    return Reply(200, {} if content_type is None else {"content-type": content_type}, text)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["without a mark", "with a mark"])
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json; charset=ISO-8859-1",  # the default of some servers, which send UTF-8 nevertheless
        "application/json; charset=nonsense",
    ],
)
def test_r10_utf8_is_read_with_a_byte_order_mark_and_whatever_charset_is_declared(
    mark: bytes, content_type: str | None
) -> None:
    text = json.dumps({**METADATA, "service": "Zürich"}, ensure_ascii=False).encode()
    metadata = parse(encoded(mark + text, content_type))

    assert (metadata.token_endpoint, metadata.extra) == (METADATA["token_endpoint"], {"service": "Zürich"})


@pytest.mark.parametrize("charset", ["iso-8859-1", "ISO-8859-15", "windows-1252"])
def test_r10_another_charset_is_read_where_it_is_declared(charset: str) -> None:
    text = json.dumps({**METADATA, "service": "Zürich"}, ensure_ascii=False).encode(charset)

    assert parse(encoded(text, f'application/json; charset="{charset}"')).extra == {"service": "Zürich"}
    for content_type in (None, "application/json", "application/json; charset=utf-8", "a/b; charset=rot13"):
        assert parse(encoded(text, content_type)).token_endpoint == METADATA["token_endpoint"]


@pytest.mark.parametrize("packed", [gzip.compress, zlib.compress])
def test_v1_metadata_is_read_as_leniently_as_a_token_reply(packed: Callable[[bytes], bytes]) -> None:
    encoding = "gzip" if packed is gzip.compress else "Deflate"
    compressed = Reply(200, {"content-encoding": encoding}, packed(json.dumps(METADATA).encode()))

    assert parse(compressed) == parse(reply(METADATA))
    assert parse(encoded(json.dumps(METADATA).encode("utf-16"))) == parse(reply(METADATA))


# The members


def test_every_member_that_a_client_acts_on_is_read_and_the_rest_is_kept() -> None:
    texts = {name: f"https://idp.example/{name}" for name in ENDPOINTS}
    lists = {
        "code_challenge_methods_supported": ["S256"],
        "dpop_signing_alg_values_supported": ["ES256"],
        "grant_types_supported": ["refresh_token", "authorization_code"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": [],
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["ES256"],
    }
    flags = {
        "authorization_response_iss_parameter_supported": True,
        "client_id_metadata_document_supported": True,
        "require_pushed_authorization_requests": False,
    }
    aliases = {"mtls_endpoint_aliases": {"token_endpoint": "https://mtls.idp.example/token"}}
    rest = {"op_policy_uri": "https://idp.example/policy", "extra": {"a": [1]}}
    metadata = parse(reply({"issuer": ISSUER, **texts, **lists, **flags, **aliases, **rest}))

    read = {field.name: getattr(metadata, field.name) for field in dataclasses.fields(metadata)}
    assert read == {
        "issuer": ISSUER,
        **texts,
        **{name: tuple(values) for name, values in lists.items()},
        **flags,
        **aliases,
        "extra": rest,
    }


def test_a_member_that_is_left_out_or_of_another_type_than_it_should_be_is_none() -> None:
    odd = {
        "jwks_uri": 5,
        "scopes_supported": "openid",
        "grant_types_supported": ["refresh_token", 5],
        "require_pushed_authorization_requests": "true",
        "mtls_endpoint_aliases": ["https://mtls.idp.example/token"],
    }
    metadata = parse(reply({**METADATA, **odd}))

    assert metadata == ServerMetadata(issuer=ISSUER, token_endpoint=METADATA["token_endpoint"])


def test_metadata_can_not_be_changed() -> None:
    metadata: Any = parse(reply({**METADATA, "mtls_endpoint_aliases": {}}))

    with pytest.raises(dataclasses.FrozenInstanceError):
        metadata.issuer = "https://evil.example"
    for members in (metadata.extra, metadata.mtls_endpoint_aliases):
        with pytest.raises(TypeError):
            members["token_endpoint"] = "https://evil.example"


@pytest.mark.parametrize("name", [name for name in ENDPOINTS if name != "token_endpoint"])
@pytest.mark.parametrize("url", ["http://idp.example/", "/relative", "https://u:p@idp.example/", 5, None])
def test_r10_a_broken_endpoint_breaks_its_own_use_and_no_renewal(name: str, url: object) -> None:
    metadata = parse(reply({**METADATA, name: url}))

    assert metadata.endpoint("token_endpoint", provider="idp") == METADATA["token_endpoint"]
    with pytest.raises(ProviderMisconfigured, match=name) as caught:
        metadata.endpoint(name, provider="idp")
    assert (caught.value.code, caught.value.provider) == ("insecure_endpoint", "idp")


def test_an_endpoint_is_given_as_the_server_wrote_it() -> None:
    metadata = parse(reply({**METADATA, "revocation_endpoint": "HTTPS://IdP.example/revoke?a=b"}))

    assert metadata.endpoint("revocation_endpoint", provider="idp") == "HTTPS://IdP.example/revoke?a=b"


# Whatever arrives

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
        metadata = parse(Reply(status, headers, body))
    except TokenRefreshError:
        return
    assert (status, metadata.issuer) == (200, ISSUER)
    require_secure_url("token_endpoint", metadata.token_endpoint, allow_loopback=False)
