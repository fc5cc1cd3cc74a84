"""The keys of encrypted records: their form, the key that a record needs, and that no key is ever shown."""

import base64
import json
import pickle
from typing import Any, Final

import pytest

from kit.stores import KEY
from tokenflight import ConfigurationError, StoreCorrupted, StoredTokens, TokenSet, Version
from tokenflight.stores.codec import encode_record
from tokenflight.stores.encryption import EncryptedCodec, new_key

CANARY: Final = "canary-7f3a"
RECORD: Final = StoredTokens(TokenSet(f"access-{CANARY}", refresh_token=f"refresh-{CANARY}"), Version("v1"))
PLAIN: Final = encode_record(KEY, RECORD)
ONE_KEY: Final = new_key()
CODEC: Final = EncryptedCodec([ONE_KEY])
SEALED: Final = CODEC.encode(KEY, RECORD)


def id_of(codec: EncryptedCodec) -> str:
    return codec._first.id


def refusal(data: bytes, codec: EncryptedCodec = CODEC) -> StoreCorrupted:
    """The error with which `data` is refused."""
    with pytest.raises(StoreCorrupted) as raised:
        codec.decode(KEY, data)
    return raised.value


def changed(**changes: Any) -> bytes:
    """The sealed record with other members in its envelope."""
    return json.dumps(json.loads(SEALED) | changes).encode()


def test_a_key_is_44_characters_of_text_and_no_two_are_alike() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert {len(key) for key in keys} == {44}


@pytest.mark.parametrize(
    "key",
    [
        b"\0" * 32,
        base64.urlsafe_b64encode(b"\0" * 32),
        "",
        "password",
        "é" * 44,
        base64.urlsafe_b64encode(b"canary-7f3a.....").decode(),
        base64.urlsafe_b64encode(b"canary-7f3a" * 3).decode(),
        f"{CANARY}{'!' * 33}",
        pytest.param(new_key()[:-1], id="a character short"),
        pytest.param(f"{new_key()}\n", id="a line"),
        *(
            pytest.param(base64.urlsafe_b64encode(weak).decode(), id=f"n14 {name}")
            for name, weak in {
                "zeros": bytes(32),
                "one byte": b"\xa7" * 32,
                "two bytes": b"\x00\xff" * 16,
                "a word of sixteen bytes": bytes(range(200, 216)) * 2,
                "a word and zeros": b"password".ljust(32, b"\0"),
                "a word twice": b"correct horse ba" * 2,
                "hexadecimal digits": b"0123456789abcdef0123456789abcdef",
            }.items()
        ),
        None,
    ],
)
def test_l1_what_is_no_key_is_refused_and_not_shown(key: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"key 2 must be text as new_key\(\) makes it") as raised:
        EncryptedCodec([ONE_KEY, key])
    error = raised.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert "canary" not in f"{error!r}"
    assert not key or str(key) not in f"{error!r}"


def test_n14_no_key_that_new_key_makes_is_taken_for_a_weak_one() -> None:
    for _ in range(1000):
        EncryptedCodec([new_key()])


@pytest.mark.parametrize("keys", [[], (), ONE_KEY, ""], ids=["none", "no tuple", "one text", "no text"])
def test_keys_are_a_list_of_at_least_one(keys: Any) -> None:
    with pytest.raises(ConfigurationError, match="keys must be a list of keys"):
        EncryptedCodec(keys)


def test_the_same_key_twice_is_refused_as_no_new_key() -> None:
    with pytest.raises(ConfigurationError, match="two of the keys are the same"):
        EncryptedCodec([ONE_KEY, ONE_KEY])


def test_the_switch_for_plain_records_is_not_turned_on_by_a_text_from_the_environment() -> None:
    with pytest.raises(ConfigurationError, match="accept_plain must be a bool"):
        EncryptedCodec([ONE_KEY], accept_plain="no")  # type: ignore[arg-type]


def test_l1_a_codec_shows_the_ids_of_its_keys_and_no_key() -> None:
    keys = [new_key(), new_key()]
    codec = EncryptedCodec(keys)
    first, second = codec._keys
    assert repr(codec) == f"<EncryptedCodec writing with the key {first}, reading with {first}, {second}>"
    seen = f"{codec} {vars(codec)} {[(key.id, key._mac) for key in codec._keys.values()]}"
    for text in keys:
        secret = base64.urlsafe_b64decode(text)
        for shown in (text[:12], secret.hex()[:12], repr(secret)[2:14]):
            assert shown not in seen
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(codec)


def test_the_id_of_a_key_stays_the_same() -> None:
    assert id_of(EncryptedCodec([base64.urlsafe_b64encode(bytes(range(32))).decode()])) == "09041acb"


@pytest.mark.parametrize(
    "data",
    [SEALED[:-1], changed(sealed="AAAA"), changed(key_id="00000000"), changed(user_id="bob"), PLAIN, PLAIN[:-1]],
    ids=["cut off", "not authentic", "unknown key", "another user's", "plain", "plain and cut off"],
)
def test_l1_no_error_holds_what_the_record_held(data: bytes) -> None:
    error: BaseException | None = refusal(data)
    sealed = json.loads(SEALED)["sealed"]
    while error is not None:
        shown = f"{error!r} {vars(error)}"
        assert CANARY not in shown
        assert sealed[:12] not in shown
        error = error.__context__


def test_a_record_of_an_unknown_key_says_which_key_is_missing_and_which_there_are() -> None:
    first, second = EncryptedCodec([new_key()]), EncryptedCodec([new_key()])
    both = EncryptedCodec([new_key(), new_key()])
    error = refusal(first.encode(KEY, RECORD), both)
    assert error.code == "unknown_key"
    for key_id in (id_of(first), *both._keys):
        assert key_id in str(error)
    assert id_of(second) not in str(error)


def test_an_error_shows_no_more_than_the_beginning_of_a_key_id() -> None:
    error = refusal(changed(key_id="\n" + "x" * 1000))
    assert error.code == "unknown_key"
    assert "\n" not in str(error)
    assert len(str(error)) < 300
