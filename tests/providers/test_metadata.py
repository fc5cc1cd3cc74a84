"""What a discovery reply has to be, and how its members are read."""

import dataclasses
import json
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


def parse(reply: Reply) -> ServerMetadata:
    return parse_metadata_reply(reply, issuer=ISSUER, provider="idp")


def reply(metadata: object, status: int = 200) -> Reply:
    return Reply(status, {}, json.dumps(metadata).encode())


def error_in(given_reply: Reply) -> TokenRefreshError:
    with pytest.raises(TokenRefreshError) as caught:
        parse(given_reply)
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
    require_secure_url("token_endpoint", metadata.token_endpoint)
