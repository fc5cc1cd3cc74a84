"""Names of any content as file names."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenflight.stores.file._names import MAX_NAME_LENGTH, decode_name, encode_name
from tokenflight.testing.conformance._suite import HOSTILE_NAMES, LONE_SURROGATES, PLAIN_NAMES

RESERVED_ON_WINDOWS = ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))]

any_text = st.one_of(
    st.text(st.characters(codec=None), min_size=1),
    st.text("aA./\\%~_-:é\x00 ", min_size=1, max_size=8),
    st.text("xX./", min_size=MAX_NAME_LENGTH - 5, max_size=MAX_NAME_LENGTH + 5),
    st.sampled_from([*PLAIN_NAMES, *HOSTILE_NAMES, *LONE_SURROGATES]),
)


@pytest.mark.parametrize("text", ["alice", "alice@example.com", "a_b-c+d", "42", "idp.example"])
def test_a_plain_name_is_its_own_file_name(text: str) -> None:
    assert encode_name(text) == text


@given(any_text)
def test_p6_a_file_name_is_harmless_wherever_it_is_used(text: str) -> None:
    name = encode_name(text)
    assert re.fullmatch(r"[a-z0-9_\-@+.%~]{1,200}", name)
    assert not name.startswith(".")
    assert not name.endswith(".")
    assert name.partition(".")[0] not in RESERVED_ON_WINDOWS


@given(any_text)
@example("." * 100)
@example("A" * 66 + "a" * 3)
def test_a_file_name_reads_back_as_its_text_unless_it_was_cut(text: str) -> None:
    name = encode_name(text)
    assert decode_name(name) == (None if "~" in name else text)
    if len(text) <= 66 and text.isascii():
        assert "~" not in name


@given(any_text, any_text)
@example("a/b", "a_b")
@example("a/b", "A/B")
@example("a%2fb", "a/b")
@example("x" * 3000, "x" * 2999 + "y")
def test_p6_two_names_never_collide_not_even_on_a_case_insensitive_file_system(one: str, other: str) -> None:
    assert (encode_name(one).casefold() == encode_name(other).casefold()) == (one == other)


@given(any_text)
def test_p6_no_text_has_a_cut_name_as_its_plain_one(text: str) -> None:
    cut = encode_name((text * (MAX_NAME_LENGTH + 1))[: MAX_NAME_LENGTH + 1])
    assert "~" in cut
    assert encode_name(cut) != cut


@pytest.mark.parametrize("reserved", RESERVED_ON_WINDOWS)
@pytest.mark.parametrize("ending", ["", ".txt", ".", ".tar.gz"])
def test_a_name_that_windows_reserves_is_encoded(reserved: str, ending: str) -> None:
    name = encode_name(reserved + ending)
    assert name.startswith(f"%{ord(reserved[0]):02x}")
    assert decode_name(name) == reserved + ending


def test_a_name_that_only_begins_like_a_reserved_one_stays_plain() -> None:
    assert encode_name("console") == "console"
    assert encode_name("com10") == "com10"


@pytest.mark.parametrize("name", ["", "A", "%2F", "%2", "%", "%61", ".a", "a.", "con", "a b", "é", "%ff", "\udcff"])
def test_a_file_name_that_no_text_has_reads_as_none(name: str) -> None:
    assert decode_name(name) is None


@given(st.text(st.characters(codec=None)))
def test_reading_a_foreign_file_name_never_fails(name: str) -> None:
    text = decode_name(name)
    assert text is None or encode_name(text) == name
