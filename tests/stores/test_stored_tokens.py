"""The record itself, and the targets of its access tokens."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest

from tokenflight import ConfigurationError, StoredTokens, Target, TokenSet
from tokenflight.tokens import DEFAULT_TARGET

BILLING = Target(resource="https://billing.example")
RECORD = StoredTokens(TokenSet("access", refresh_token="refresh"), access_tokens={BILLING: TokenSet("billing")})


def test_every_record_gets_a_version_that_no_other_has() -> None:
    assert len({StoredTokens(TokenSet("access")).version for _ in range(1000)}) == 1000


@pytest.mark.parametrize("name", ["scope", "resource", "audience"])
@pytest.mark.parametrize("value", ["", 1, ["read"], b"read"], ids=repr)
def test_a_target_is_made_of_non_empty_strings(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be a non-empty string or None"):
        Target(**{name: value})


def test_targets_with_equal_members_are_one_target() -> None:
    assert {
        Target("read", "https://a.example", "a"),
        Target(scope="read", audience="a", resource="https://a.example"),
    } == {Target("read", "https://a.example", "a")}
    assert len({DEFAULT_TARGET, Target("a"), Target(None, "a"), Target(None, None, "a")}) == 4


@pytest.mark.parametrize(
    "tokens",
    [TokenSet("a", refresh_token="r"), TokenSet("a", id_token="i"), TokenSet("a", extra={"session": "s"})],
    ids=["refresh token", "ID token", "further members"],
)
def test_what_belongs_to_the_grant_is_refused_beside_an_access_token(tokens: TokenSet) -> None:
    with pytest.raises(ConfigurationError, match="must have no refresh token, no ID token and no further members"):
        StoredTokens(TokenSet("access"), access_tokens={BILLING: tokens})


def test_the_access_token_of_the_default_target_has_one_place() -> None:
    with pytest.raises(ConfigurationError, match="default target"):
        StoredTokens(TokenSet("access"), access_tokens={Target(): TokenSet("another")})


def test_a_record_is_read_only_and_does_not_change_with_what_it_was_made_of() -> None:
    access_tokens = {BILLING: TokenSet("billing")}
    record = StoredTokens(TokenSet("access"), access_tokens=access_tokens)
    access_tokens.clear()
    assert record.access_tokens == {BILLING: TokenSet("billing")}
    for each in (record, StoredTokens(TokenSet("access"))):
        with pytest.raises(TypeError, match="read-only"):
            each.access_tokens.update({BILLING: TokenSet("x")})  # type: ignore[attr-defined]  # the test's point


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, replace, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_of_a_record_is_equal_to_it(copied: Any) -> None:
    assert copied(RECORD) == RECORD
    assert hash(copied(RECORD)) == hash(RECORD)


def test_l1_no_token_shows_in_the_repr_of_a_record() -> None:
    shown = repr(StoredTokens(TokenSet("canary-1"), access_tokens={BILLING: TokenSet("canary-2")}))
    assert "canary" not in shown
    assert "https://billing.example" in shown
