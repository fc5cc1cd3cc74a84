"""How the client proves its identity, on the wire and in print."""

import base64
import dataclasses
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenflight.errors import ConfigurationError
from tokenflight.providers.client_auth import (
    ClientAuthentication,
    ClientSecretBasic,
    ClientSecretPost,
    PublicClient,
)
from tokenflight.providers.grants import refresh_token_grant
from tokenflight.providers.metadata import ServerMetadata
from tokenflight.providers.requests import Request, build_token_request

SERVER = ServerMetadata(token_endpoint="https://idp.example/token")
REQUEST = build_token_request("https://idp.example/token", refresh_token_grant("rt", scope="a"))
SECRET = "s3cret-canary"
METHODS: list[ClientAuthentication] = [
    ClientSecretBasic("app", SECRET),
    ClientSecretPost("app", SECRET),
    PublicClient("app"),
]
text = st.text(st.characters(codec="utf-8"), min_size=1)


async def authenticated(method: ClientAuthentication) -> Request:
    return await method.authenticate(REQUEST, SERVER)


def credentials_in(header: str) -> list[str]:
    """What a server reads out of a Basic header (RFC 6749 §2.3.1)."""
    scheme, encoded = header.split(" ")
    assert scheme == "Basic"
    return [unquote_plus(part) for part in base64.b64decode(encoded, validate=True).decode("ascii").split(":")]


async def test_r9_the_example_of_the_rfc_gives_the_header_of_the_rfc() -> None:
    """RFC 6749 §2.3.1."""
    request = await authenticated(ClientSecretBasic("s6BhdRkqt3", "7Fjfp0ZBr1KtDRbnfVdmIw"))

    assert request.headers["Authorization"] == "Basic czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3"


@pytest.mark.parametrize(
    ("secret", "encoded"),
    [
        ("a:b", "a%3Ab"),
        ("a%b", "a%25b"),
        ("a+b", "a%2Bb"),
        ("a b", "a+b"),
        ("a&b=c", "a%26b%3Dc"),
        ("a/b", "a%2Fb"),
        ("é€", "%C3%A9%E2%82%AC"),
        ("-._~", "-._~"),
    ],
)
async def test_r9_reserved_characters_are_form_encoded_before_base64(secret: str, encoded: str) -> None:
    header = (await authenticated(ClientSecretBasic("app:1", secret))).headers["Authorization"]

    assert base64.b64decode(header.removeprefix("Basic ")) == f"app%3A1:{encoded}".encode()


@given(text, text)
async def test_r9_a_server_reads_back_any_credentials(client_id: str, secret: str) -> None:
    header = (await authenticated(ClientSecretBasic(client_id, secret))).headers["Authorization"]

    assert header.isascii()
    assert credentials_in(header) == [client_id, secret]


async def test_basic_adds_nothing_to_the_form() -> None:
    request = await authenticated(ClientSecretBasic("app", SECRET))

    assert request.parameters == REQUEST.parameters
    assert request.headers.keys() - REQUEST.headers.keys() == {"Authorization"}


async def test_post_puts_the_credentials_as_they_are_into_the_form_and_nowhere_else() -> None:
    request = await authenticated(ClientSecretPost("app", "a:b c%"))

    assert request.headers == REQUEST.headers
    assert parse_qsl(request.content.decode(), strict_parsing=True) == [
        ("grant_type", "refresh_token"),
        ("refresh_token", "rt"),
        ("scope", "a"),
        ("client_id", "app"),
        ("client_secret", "a:b c%"),
    ]


async def test_a_public_client_only_names_itself() -> None:
    request = await authenticated(PublicClient("app"))

    assert request == REQUEST.adding(parameters={"client_id": "app"})


@pytest.mark.parametrize(
    ("method", "secrets"),
    [
        (ClientSecretBasic("app", "s3 cr&t"), {"s3 cr&t", "s3+cr%26t", "YXBwOnMzK2NyJTI2dA=="}),
        (ClientSecretPost("app", "s3 cr&t"), {"s3 cr&t"}),
        (PublicClient("app"), set()),
    ],
)
async def test_l1_each_method_names_its_secrets_beside_those_of_the_request(
    method: ClientAuthentication, secrets: set[str]
) -> None:
    assert (await authenticated(method)).secrets == {"rt", *secrets}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_tells_the_client_id(method: ClientAuthentication) -> None:
    assert method.client_id == "app"


@pytest.mark.parametrize("method", METHODS)
def test_l1_no_method_shows_its_secret(method: ClientAuthentication) -> None:
    assert "app" in repr(method)
    assert SECRET not in f"{method} {method!r} {[method]}"


@pytest.mark.parametrize("value", ["", None, 5, b"app", ["app"]])
@pytest.mark.parametrize("kind", [ClientSecretBasic, ClientSecretPost])
def test_a_wrong_id_or_secret_is_named_and_a_secret_is_not_shown(kind: Any, value: object) -> None:
    with pytest.raises(ConfigurationError, match="client_id"):
        kind(value, SECRET)
    with pytest.raises(ConfigurationError, match="client_secret"):
        kind("app", value)


def test_l1_a_secret_of_the_wrong_type_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        ClientSecretBasic("app", SECRET.encode())  # type: ignore[arg-type] # the point

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", ["", None, 5])
def test_a_public_client_with_a_wrong_id_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="client_id"):
        PublicClient(value)


@pytest.mark.parametrize("kind", [ClientSecretBasic, ClientSecretPost])
def test_a_secret_that_no_encoding_can_send_is_refused_at_once(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="client_secret"):
        kind("app", "a lone surrogate: \ud800")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_cannot_be_changed(method: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.client_id = "other"
