"""The provider's memory of grants: rotation, reuse, revocation, lifetimes."""

import pytest

from tokenflight import ConfigurationError
from tokenflight.testing.grants import Grants, RefreshTokenRules, Rotation

NOW = 1_700_000_000.0


def refresh(
    grants: Grants,
    token: str,
    *,
    now: float = NOW,
    rotation: Rotation = "always",
    grace: float = 0,
    strict: bool = True,
) -> dict[str, object] | None:
    return grants.refresh(token, now=now, lifetime=3600, rules=RefreshTokenRules(rotation, grace, strict))


def login(grants: Grants, user_id: str = "alice", *, lifetime: float | None = 3600) -> tuple[str, str]:
    reply = grants.start(user_id, now=NOW, lifetime=lifetime)
    return reply["access_token"], reply["refresh_token"]


def test_tokens_are_recognizable_by_their_prefix() -> None:
    access_token, refresh_token = login(Grants())
    assert access_token.startswith("at_")
    assert refresh_token.startswith("rt_")


def test_every_token_is_a_new_one() -> None:
    grants = Grants()
    tokens = [token for _ in range(50) for token in login(grants)]
    assert len(set(tokens)) == 100


def test_a_rotated_refresh_token_has_a_successor_that_is_good() -> None:
    grants = Grants()
    _, first = login(grants)
    reply = refresh(grants, first)
    assert reply is not None
    second = str(reply["refresh_token"])
    assert second != first
    assert grants.latest("alice").refresh_token == second
    assert refresh(grants, second) is not None
    assert grants.refreshes["alice"] == 2
    assert grants.reuses["alice"] == 0


def test_without_rotation_the_reply_has_no_refresh_token_and_the_old_one_stays_good() -> None:
    grants = Grants()
    _, refresh_token = login(grants)
    for _ in range(2):
        reply = refresh(grants, refresh_token, rotation="never")
        assert reply is not None
        assert "refresh_token" not in reply
    assert grants.latest("alice").refresh_token == refresh_token


def test_a_strict_provider_revokes_the_grant_when_a_spent_refresh_token_comes_again() -> None:
    grants = Grants()
    old_access_token, spent = login(grants)
    reply = refresh(grants, spent)
    assert reply is not None
    assert refresh(grants, spent) is None
    assert grants.reuses["alice"] == 1
    assert grants.latest("alice").revoked
    assert refresh(grants, str(reply["refresh_token"])) is None
    for access_token in (old_access_token, str(reply["access_token"])):
        assert not grants.is_live(access_token, now=NOW)


def test_a_lenient_provider_only_refuses_a_spent_refresh_token() -> None:
    grants = Grants()
    _, spent = login(grants)
    reply = refresh(grants, spent)
    assert reply is not None
    assert refresh(grants, spent, strict=False) is None
    assert grants.reuses["alice"] == 1
    assert not grants.latest("alice").revoked
    assert refresh(grants, str(reply["refresh_token"])) is not None


def test_a_spent_refresh_token_from_before_the_last_rotation_is_known_too() -> None:
    grants = Grants()
    _, first = login(grants)
    token = first
    for _ in range(5):
        reply = refresh(grants, token)
        assert reply is not None
        token = str(reply["refresh_token"])
    assert refresh(grants, first) is None
    assert grants.reuses["alice"] == 1


def test_an_unknown_refresh_token_is_nobodys_reuse() -> None:
    grants = Grants()
    login(grants)
    assert refresh(grants, "rt_unknown") is None
    assert not grants.reuses
    assert not grants.latest("alice").revoked


def test_reuse_revokes_only_the_grant_it_belongs_to() -> None:
    grants = Grants()
    _, spent = login(grants)
    assert refresh(grants, spent) is not None
    other_login, _ = login(grants)
    bobs, _ = login(grants, "bob")
    assert refresh(grants, spent) is None
    assert not grants.latest("alice").revoked
    assert grants.is_live(other_login, now=NOW)
    assert grants.is_live(bobs, now=NOW)


def test_an_access_token_lives_exactly_its_lifetime() -> None:
    grants = Grants()
    access_token, _ = login(grants, lifetime=10)
    assert grants.is_live(access_token, now=NOW + 9.999)
    assert not grants.is_live(access_token, now=NOW + 10)


def test_an_access_token_without_a_lifetime_never_expires() -> None:
    grants = Grants()
    reply = grants.start("alice", now=NOW, lifetime=None)
    assert "expires_in" not in reply
    assert grants.is_live(reply["access_token"], now=NOW * 100)


def test_tokens_are_known_to_be_a_users_even_when_they_are_dead() -> None:
    grants = Grants()
    access_token, refresh_token = login(grants)
    grants.latest("alice").revoked = True
    assert grants.user_of_access_token(access_token) == "alice"
    assert grants.user_of_refresh_token(refresh_token) == "alice"
    assert grants.user_of_access_token("at_unknown") is None
    assert grants.user_of_refresh_token("rt_unknown") is None


def test_a_user_who_never_logged_in_is_a_clear_error() -> None:
    with pytest.raises(ConfigurationError, match="'carol' has no grant here; call login first"):
        Grants().latest("carol")


def test_no_token_shows_in_the_repr_of_a_grant() -> None:
    grants = Grants()
    access_token, refresh_token = login(grants)
    shown = repr(grants.latest("alice"))
    assert "alice" in shown
    assert access_token not in shown
    assert refresh_token not in shown
