"""How the client proves who it is, on the wire and in print."""

import base64
import dataclasses
from typing import Any
from urllib.parse import unquote_plus

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

SECRET = "s3cret-canary"
METHODS: list[ClientAuthentication] = [
    ClientSecretBasic("app", SECRET),
    ClientSecretPost("app", SECRET),
    PublicClient("app"),
]
text = st.text(st.characters(codec="utf-8"), min_size=1)


def credentials_in(header: str) -> list[str]:
    """What a server reads out of a Basic header (RFC 6749 §2.3.1)."""
    scheme, encoded = header.split(" ")
    assert scheme == "Basic"
    return [unquote_plus(part) for part in base64.b64decode(encoded, validate=True).decode("ascii").split(":")]


def test_r9_the_example_of_the_rfc_gives_the_header_of_the_rfc() -> None:
    """RFC 6749 §2.3.1."""
    assert ClientSecretBasic("s6BhdRkqt3", "7Fjfp0ZBr1KtDRbnfVdmIw").headers() == {
        "Authorization": "Basic czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3"
    }


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
def test_r9_reserved_characters_are_form_encoded_before_base64(secret: str, encoded: str) -> None:
    header = ClientSecretBasic("app:1", secret).headers()["Authorization"]

    assert base64.b64decode(header.removeprefix("Basic ")) == f"app%3A1:{encoded}".encode()


@given(text, text)
def test_r9_a_server_reads_back_any_credentials(client_id: str, secret: str) -> None:
    header = ClientSecretBasic(client_id, secret).headers()["Authorization"]

    assert header.isascii()
    assert credentials_in(header) == [client_id, secret]


def test_basic_adds_nothing_to_the_form() -> None:
    assert ClientSecretBasic("app", SECRET).parameters() == {}


def test_post_puts_the_credentials_as_they_are_into_the_form_and_nowhere_else() -> None:
    method = ClientSecretPost("app", "a:b c%")

    assert method.parameters() == {"client_id": "app", "client_secret": "a:b c%"}
    assert method.headers() == {}


def test_a_public_client_only_names_itself() -> None:
    assert PublicClient("app").parameters() == {"client_id": "app"}
    assert PublicClient("app").headers() == {}


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
