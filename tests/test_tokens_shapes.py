"""V5, V7, V8, V11, C1: token sets as other programs leave them, and what a second login or a renewal leaves of them."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import time_machine
from hypothesis import given

from kit.strategies import json_values, token_sets
from tokenflight import RefreshPolicy, TokenRefresher, TokenStore
from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoreCorrupted,
)
from tokenflight.policy import Freshness, judge
from tokenflight.testing import FakeProvider, ServerError
from tokenflight.tokens import TokenSet

NOW: Final = 1_800_000_000
HOUR: Final = 3600

CASES: Final = json.loads(Path(__file__).with_name("cases").joinpath("token_files.json").read_text("utf-8"))["cases"]
CHAPTERS: Final = {
    "quickbooks with realmId": "V8",
    "raw salesforce reply: issued_at in ms as text": "V4 V5 V8",
    "only a refresh token": "V1",
    "a clock that was a year ahead": "C1",
}
"""The chapters of the failure catalogue that a case proves, where it is not V5 alone."""


@pytest.fixture(scope="module", autouse=True)
def at_now() -> Iterator[None]:
    """The clock stands still at `NOW`."""
    with time_machine.travel(NOW, tick=False):
        yield


def materialized(value: Any) -> Any:
    """`value` of a case, with each time relative to now in the notation that the case names."""
    if not isinstance(value, dict):
        return value
    notations: dict[str, Callable[[float], object]] = {
        "epoch_in": lambda at: at,
        "epoch_text_in": str,
        "ms_in": lambda at: at * 1000,
        "ms_text_in": lambda at: str(at * 1000),
        "iso_in": lambda at: datetime.fromtimestamp(at, UTC).isoformat(),
    }
    for notation, write in notations.items():
        if notation in value:
            return write(NOW + value[notation])
    if "strftime" in value:
        return datetime.fromtimestamp(NOW + value["in"], UTC).strftime(value["strftime"])
    return {name: materialized(item) for name, item in value.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{CHAPTERS.get(case['name'], 'V5')} {case['name']}")
def test_token_sets_are_read_as_other_programs_leave_them(case: dict[str, Any]) -> None:
    tokens = TokenSet.from_dict(materialized(case["data"]))
    due = not judge(tokens, RefreshPolicy(), time.time()).is_good
    found = {
        "expires_in": None if tokens.expires_at is None else tokens.expires_at - NOW,
        "issued_in": None if tokens.issued_at is None else tokens.issued_at - NOW,
        "usable": judge(tokens, RefreshPolicy(), time.time()) is not Freshness.EXPIRED,
        "due": due,
        **{name: getattr(tokens, name) for name in ("expires_at", "refresh_token", "scope", "extra")},
    }

    assert {name: found[name] for name in case["want"]} == case["want"]
    assert TokenSet.from_dict(json.loads(json.dumps(tokens.to_dict()))) == tokens


def stored(**members: Any) -> TokenSet:
    return TokenSet.from_dict({"access_token": "at", **members})


# Zero, negative, future


def test_mailchimps_lifetime_of_zero_means_never_where_no_renewal_is_possible() -> None:
    assert stored(expires_in=0).expires_at is None
    assert stored(expires_in=0, refresh_token="rt").expires_at == 0
    assert stored(expires_in=0, refresh_token="rt", issued_at=NOW - 5).expires_at == NOW - 5


def test_a_negative_lifetime_is_over() -> None:
    assert stored(expires_in=-30, issued_at=NOW).expires_at == NOW - 30


def test_v5_a_time_of_issue_in_the_future_is_unknown_and_what_follows_from_it_is_over() -> None:
    tokens = stored(created_at=NOW + 365 * 86_400, expires_in=HOUR, refresh_token="rt")

    assert (tokens.issued_at, tokens.expires_at) == (None, 0)
    assert stored(created_at=NOW + 86_400, expires_at=NOW + 90_000).expires_at == 0


def test_c1_more_life_left_than_the_token_ever_had_is_by_a_wrong_clock_and_over() -> None:
    assert stored(refresh_token="rt", expires_in=HOUR, expires_at=NOW + 365 * 86_400).expires_at == 0
    assert stored(refresh_token="rt", expires_in=HOUR, expires_at=NOW + HOUR + 60).expires_at == NOW + HOUR + 60
    assert stored(refresh_token="rt", expires_in=120_000, expires_at=NOW + 120).expires_at == NOW + 120


def test_v5_a_lifetime_that_means_for_ever_is_no_moment() -> None:
    assert stored(refresh_token="rt", expires_in=40 * 365 * 86_400, issued_at=NOW).expires_at is None
    assert stored(refresh_token="rt", refresh_token_expires_in=20 * 365 * 86_400).refresh_token_expires_at is None


def test_v5_an_expiry_that_does_not_follow_from_a_wrong_time_of_issue_stands() -> None:
    assert stored(created_at=NOW + 7200, expires_at=NOW + HOUR) == TokenSet("at", expires_at=NOW + HOUR)


def test_v5_clocks_that_are_a_little_apart_do_not_make_the_time_of_issue_unknown() -> None:
    assert stored(created_at=NOW + 60, expires_in=HOUR).issued_at == NOW + 60


# V8: what means nothing here


def test_v8_members_that_mean_nothing_here_live_on_through_every_writing_and_renewal() -> None:
    others = {"realmId": "123", "instance_url": "https://x.example", "nested": {"a": [1, None]}, "client_id": "app"}
    tokens = stored(refresh_token="rt", expiresAt=0, **others)
    renewed = TokenSet("at2", issued_at=NOW).carrying_over(TokenSet.from_dict(tokens.to_dict()))

    assert tokens.extra == renewed.extra == others


def test_v8_further_members_that_were_set_apart_already_join_the_others() -> None:
    assert stored(realmId="1", extra={"team": "T1"}).extra == {"realmId": "1", "team": "T1"}


def test_v8_a_clients_secret_and_what_no_store_can_write_do_not_live_on() -> None:
    tokens = stored(client_secret="s", clientSecret="s", updated=datetime.now(UTC), raw=b"x", tenant="t1")

    assert tokens.extra == {"tenant": "t1"}


def test_v8_a_member_with_a_name_longer_than_any_known_lives_on() -> None:
    assert stored(**{"x" * 1000: 1}).extra == {"x" * 1000: 1}


@given(json_values)
def test_v8_whatever_a_member_holds_the_rest_is_read(value: Any) -> None:
    assert stored(unknown=value, refresh_token="rt").refresh_token == "rt"


# V11: how long the refresh token lives

LIFETIMES: Final = [
    *("refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in", "refreshTokenExpiresIn"),
    *("refreshExpiresIn", "refresh_token_expires", "refresh_token_lifetime", "refresh_token_validity"),
    *("refreshTokenTtl", "refresh_token_valid_for"),
]
ENDS: Final = [
    *("refresh_token_expires_at", "refreshTokenExpiresAt", "refresh_expires_at", "refreshTokenExpiry"),
    *("refreshTokenExpirationTimestamp", "refresh_token_exp", "refresh_token_expires_in"),
]


@pytest.mark.parametrize("name", LIFETIMES)
def test_v11_the_life_of_the_refresh_token_is_read_from_a_reply(name: str) -> None:
    tokens = TokenSet.from_response({"access_token": "at", "refresh_token": "rt", name: "8726400"}, received_at=NOW)

    assert tokens.refresh_token_expires_at == NOW + 8_726_400
    assert tokens.extra == {}


@pytest.mark.parametrize("name", LIFETIMES)
def test_v11_the_life_of_the_refresh_token_is_read_from_a_file(name: str) -> None:
    assert stored(**{name: 86_400}, issued_at=NOW - 60).refresh_token_expires_at == NOW - 60 + 86_400
    assert stored(**{name: 86_400}).refresh_token_expires_at is None


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("end", [NOW + 86_400, (NOW + 86_400) * 1000, "2027-01-16T08:00:00Z"])
def test_v11_the_end_of_the_refresh_token_is_read_from_replies_and_files(name: str, end: object) -> None:
    reply = TokenSet.from_response({"access_token": "at", name: end}, received_at=NOW)

    assert reply.refresh_token_expires_at == stored(**{name: end}).refresh_token_expires_at == NOW + 86_400


@pytest.mark.parametrize("value", [0, "0", -1, None, "", "soon", 10**12 + 1, True, []])
@pytest.mark.parametrize("name", [*LIFETIMES, *ENDS])
def test_v11_a_refresh_token_that_never_ends_or_tells_nothing_has_no_known_end(name: str, value: object) -> None:
    tokens = TokenSet.from_response({"access_token": "at", "expires_in": HOUR, name: value}, received_at=NOW)

    assert (tokens.refresh_token_expires_at, tokens.expires_at) == (None, NOW + HOUR)


def test_v11_of_two_ends_of_the_refresh_token_the_earlier_counts() -> None:
    members = {"x_refresh_token_expires_in": 8_640_000, "x_refresh_token_hard_expires_in": 86_400}

    tokens = TokenSet.from_response({"access_token": "at", **members}, received_at=NOW)

    assert tokens.refresh_token_expires_at == NOW + 86_400


def test_v11_apigee_tells_when_the_refresh_token_was_issued() -> None:
    tokens = stored(issued_at=str(NOW * 1000), refresh_token_issued_at=str((NOW - 100) * 1000), refreshExpiresIn="500")

    assert (tokens.issued_at, tokens.refresh_token_expires_at) == (NOW, NOW + 400)


HELD: Final = TokenSet("at", refresh_token="rt", refresh_token_expires_at=NOW + 86_400)


@pytest.mark.parametrize(
    ("renewed", "end"),
    [
        (TokenSet("at2"), NOW + 86_400),
        (TokenSet("at2", refresh_token="rt"), NOW + 86_400),
        (TokenSet("at2", refresh_token="rt2"), None),
        (TokenSet("at2", refresh_token="rt2", refresh_token_expires_at=NOW + 5), NOW + 5),
        (TokenSet("at2", refresh_token_expires_at=NOW + 5), NOW + 5),
    ],
)
def test_v11_the_end_of_a_refresh_token_is_carried_over_with_that_token_alone(
    renewed: TokenSet, end: float | None
) -> None:
    assert renewed.carrying_over(HELD).refresh_token_expires_at == end


def test_v11_the_end_of_the_refresh_token_shows_as_a_time() -> None:
    assert repr(HELD) == (
        "<TokenSet Bearer expires_at=None refresh_token_expires_at=1800086400 scope=None +refresh_token>"
    )


# When the provider wants a renewal ahead of time


def test_entras_refresh_in_is_read_from_replies_and_files() -> None:
    reply = TokenSet.from_response({"access_token": "at", "expires_in": 86_399, "refresh_in": 43_199}, received_at=NOW)

    assert reply.refresh_at == NOW + 43_199
    assert stored(cached_at=str(NOW), refresh_on=str(NOW + 43_199)).refresh_at == NOW + 43_199
    assert stored(refreshAfterTimestamp=(NOW + 43_199) * 1000).refresh_at == NOW + 43_199
    assert stored(refresh_in=43_199).refresh_at is None


@pytest.mark.parametrize("value", [0, -5, "soon", None, True, 10**15])
def test_a_refresh_in_that_makes_no_sense_is_left_out(value: object) -> None:
    assert TokenSet.from_response({"access_token": "at", "refresh_in": value}, received_at=NOW).refresh_at is None


def test_when_to_renew_ahead_belongs_to_the_access_token_and_is_not_carried_over() -> None:
    assert TokenSet("at2").carrying_over(TokenSet("at", refresh_at=NOW)).refresh_at is None


# A refresh token alone


@pytest.mark.parametrize(
    "data",
    [{}, {"access_token": ""}, {"access_token": None}, {"access_token": 5}, {"access_token": "", "format_version": 1}],
)
def test_a_refresh_token_alone_is_a_token_set_without_an_access_token(data: Any) -> None:
    tokens = TokenSet.from_dict({"refresh_token": "rt", **data})

    assert tokens == TokenSet("", refresh_token="rt")
    assert TokenSet.from_dict(tokens.to_dict()) == tokens
    assert repr(tokens) == "<TokenSet Bearer expires_at=None scope=None +refresh_token -access_token>"


@pytest.mark.parametrize("access_token", [{}, {"access_token": None}, {"access_token": 5}])
def test_a_record_of_our_own_that_lost_its_access_token_is_corrupted(access_token: dict[str, object]) -> None:
    with pytest.raises(StoreCorrupted, match="no access_token"):
        TokenSet.from_dict({"refresh_token": "rt", "format_version": 1, **access_token})


@pytest.mark.parametrize("refresh_token", [None, ""])
def test_a_token_set_with_neither_token_cannot_be_made(refresh_token: str | None) -> None:
    with pytest.raises(ConfigurationError, match="access_token"):
        TokenSet("", refresh_token=refresh_token)


def test_two_refresh_tokens_alone_are_not_taken_for_one_token_set() -> None:
    one, other = TokenSet("", refresh_token="one"), TokenSet("", refresh_token="other")

    assert one.supersedes(one)
    assert not one.supersedes(other)


async def test_a_refresher_renews_a_refresh_token_alone_before_it_hands_anything_out(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", TokenSet("", refresh_token=fake.login("alice")["refresh_token"]))

    assert (await refresher.get_valid_token("alice")).access_token


async def test_a_caller_with_a_refresh_token_alone_is_told_to_store_what_it_was_renewed_to(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    alone = TokenSet("", refresh_token=fake.login("alice")["refresh_token"])

    result = await refresher.ensure_valid_token("alice", alone)

    assert result.access_token
    assert result.should_update


async def test_a_refresh_token_alone_that_the_provider_refuses_sends_the_user_through_login(
    refresher: TokenRefresher,
) -> None:
    await refresher.save_tokens("alice", TokenSet("", refresh_token="unknown"))

    with pytest.raises(ReauthenticationRequired):
        await refresher.get_valid_token("alice")


async def test_a_providers_renewal_without_an_access_token_is_an_error_and_not_handed_out(store: TokenStore) -> None:
    class Careless:
        name = "careless"

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            return TokenSet("", refresh_token="rt2")

    async with TokenRefresher(Careless(), store) as refresher:
        await refresher.save_tokens("alice", TokenSet("", refresh_token="rt"))
        with pytest.raises(InvalidProviderResponse, match="with an access token"):
            await refresher.get_valid_token("alice")


async def test_t4_a_refresh_token_alone_does_not_stand_in_for_a_renewal_that_failed(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    fake.fail(ServerError())
    await refresher.save_tokens("alice", TokenSet("", refresh_token=fake.login("alice")["refresh_token"]))

    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")


# V7: a second login


def id_token(**claims: object) -> str:
    parts = ({"alg": "none"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return f"{'.'.join(encoded)}.signature"


FIRST: Final = TokenSet(
    "at1",
    refresh_token="rt",
    scope="a b",
    id_token=id_token(sub="alice"),
    refresh_token_expires_at=NOW + 86_400,
    extra={"realmId": "1"},
)


@pytest.mark.parametrize("held", [None, id_token(sub="alice"), id_token(), "no.jw.t", "a.b", "é.é.é", "."])
@pytest.mark.parametrize("brought", [None, id_token(sub="alice", iat=5)])
def test_v7_a_second_login_of_the_same_user_without_a_refresh_token_keeps_the_firsts(
    held: str | None, brought: str | None
) -> None:
    previous = TokenSet("at1", refresh_token="rt", id_token=held, refresh_token_expires_at=NOW + 5, scope="a b")

    tokens = TokenSet("at2", scope="a", id_token=brought).after_login(previous)

    assert tokens == TokenSet(
        "at2", refresh_token="rt", scope="a", id_token=brought or held, refresh_token_expires_at=NOW + 5
    )


def test_v7_a_login_of_another_user_keeps_nothing() -> None:
    login = TokenSet("at2", id_token=id_token(sub="bob"))

    assert login.after_login(FIRST) == login


def test_v7_a_login_that_brings_a_refresh_token_keeps_nothing() -> None:
    login = TokenSet("at2", refresh_token="rt2")

    assert login.after_login(FIRST) == login


def test_v7_a_login_does_not_get_a_scope_that_it_did_not_ask_for() -> None:
    assert TokenSet("at2").after_login(FIRST).scope is None


@pytest.mark.parametrize("previous", [None, TokenSet("at1", id_token=id_token(sub="alice"), extra={"realmId": "1"})])
def test_v7_where_no_refresh_token_is_held_a_login_stays_as_it_is(previous: TokenSet | None) -> None:
    assert TokenSet("at2").after_login(previous) == TokenSet("at2")


@given(token_sets, token_sets)
def test_v7_a_login_never_loses_its_own_tokens(login: TokenSet, previous: TokenSet) -> None:
    tokens = login.after_login(previous)

    assert (tokens.access_token, tokens.expires_at, tokens.scope) == (
        login.access_token,
        login.expires_at,
        login.scope,
    )
    assert tokens.refresh_token in {login.refresh_token or previous.refresh_token, login.refresh_token}
