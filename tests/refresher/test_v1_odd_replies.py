"""V1: a strict rotating provider writes its replies in odd forms, and no user has to log in again for that."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
import time_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.support import login
from kit.tally import Counts, Tally
from tokenflight import (
    ClientSecretBasic,
    MemoryTokenStore,
    OIDCProvider,
    ReauthenticationRequired,
    TokenflightError,
    TokenRefresher,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import FakeProvider, ReplyForm, dialects

LONGEST_BACKOFF: Final = Limits().longest_backoff
PROCESSES: Final = 2
RENEWALS_IN_EACH: Final = 2
EXAMPLES: Final = 200
MANY_EXAMPLES: Final = 4000

DIALECTS: Final = {name: value for name, value in vars(dialects).items() if isinstance(value, ReplyForm)}


async def strict_run(form: ReplyForm, clock: time_machine.Traveller) -> Counts:
    """Let processes, one after the other, renew a user at a provider that writes in `form`; count what is lost.

    A user is lost where the grant is revoked, the refresh token on record is not the current one, or a caller is told
    to send the user through login.
    """
    fake, store = FakeProvider(), MemoryTokenStore()
    is_lost = False
    async with fake.client() as http:
        provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
        async with TokenRefresher(provider, store) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.reply_form = form
        for _ in range(PROCESSES):
            async with TokenRefresher(provider, store) as refresher:
                for _ in range(RENEWALS_IN_EACH):
                    is_lost |= not await _survives(refresher, fake)
                    clock.shift(LONGEST_BACKOFF)
        refreshes = fake.refreshes()
        fake.reply_form = None
        async with TokenRefresher(provider, store) as refresher:
            is_lost |= not await _survives(refresher, fake)
    return Counts(faults=refreshes, refreshes=fake.refreshes(), reuses=fake.reuses(), users_lost=int(is_lost))


async def _survives(refresher: TokenRefresher, fake: FakeProvider) -> bool:
    """Renew the user once; whether the record then has the refresh token that the provider accepts."""
    try:
        await refresher.refresh_token("alice")
    except ReauthenticationRequired:
        return False
    except TokenflightError:
        pass
    tokens = await refresher.load_tokens("alice")
    return (
        tokens is not None and not fake.revoked("alice") and tokens.refresh_token == fake.current_refresh_token("alice")
    )


# --- the forms that are drawn ----------------------------------------------------------------------------------------
# In each of them one refresh token can be found, and the reply reports no error.


def nested(levels: int) -> Any:
    value: Any = "deep"
    for _ in range(levels):
        value = [value]
    return value


names: Final = st.fixed_dictionaries(
    {},
    optional={
        "access_token": st.sampled_from(["accessToken", "Access-Token", "ACCESS_TOKEN", None]),
        "refresh_token": st.sampled_from(["refreshToken", "Refresh-Token", "RefreshToken"]),
        "token_type": st.sampled_from(["tokenType", "Token_Type", None]),
        "expires_in": st.sampled_from(["expiresIn", "expires", "lifetime", None]),
    },
)
members: Final = st.fixed_dictionaries(
    {},
    optional={
        "token_type": st.sampled_from(
            ["bearer", "BEARER", "bot", "user", "User Access Token", "N_A", "BearerToken", "mac", "pop", "", None, 7]
        ),
        "access_token": st.sampled_from([7, None, "", True, {"value": 1}, []]),
        "expires_in": st.sampled_from([0, -1, "soon", "3600", 1e300, float("inf"), None, {}, True]),
        "expires_on": st.sampled_from(["1800003600", 1_800_003_600_000, "never"]),
        "scope": st.sampled_from(["", "a b", "a,b", ["a", "b"], None, 7]),
        "id_token": st.sampled_from([7, "", "a.b.c"]),
        "name": st.sampled_from(["José", "€", "名前", "\u2028", 'quoted "name" \\', "a&b=c", "<b>"]),
        "user": st.sampled_from([{"id": 1}, [{"id": 1}], nested(60)]),
        "x_refresh_token_expires_in": st.sampled_from([8_726_400, "never"]),
    },
)
repeated: Final = st.fixed_dictionaries(
    {},
    optional={
        "scope": st.sampled_from([..., "other"]),
        "token_type": st.sampled_from([..., "mac"]),
        "access_token": st.sampled_from([..., "other"]),
        "refresh_token": st.just(...),
        "expires_in": st.sampled_from([..., 1]),
    },
)
"""With one value, or with two that differ; of two refresh tokens that differ, neither is certain."""
places: Final = st.lists(
    st.sampled_from(["authed_user", "body", "data", "response", "result", "tokens"]), max_size=3
).map(tuple)
outer_members: Final = st.fixed_dictionaries(
    {},
    optional={
        "ok": st.just(True),
        "status": st.sampled_from([0, 200, "success"]),
        "message": st.sampled_from(["", "refresh token renewed"]),
        "meta": st.sampled_from([{"pages": [1, 2]}, [], None]),
    },
)
charsets: Final = st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32"])
compressions: Final = st.sampled_from(
    [
        (None, {}),
        (None, {"Content-Encoding": "Identity"}),
        ("gzip", {}),
        ("gzip", {"Content-Encoding": "x-gzip"}),
        ("gzip", {"Content-Encoding": "identity"}),
        ("gzip", {"Content-Encoding": "GZIP, identity"}),
        ("deflate", {}),
        ("raw deflate", {}),
    ]
)
content_types: Final = st.sampled_from(
    [{}, {"Content-Type": "text/plain"}, {"Content-Type": "text/javascript; charset=koi8-r"}]
)


@st.composite
def forms(draw: Callable[..., Any]) -> ReplyForm:
    syntax = draw(st.sampled_from(["json", "json", "json", "form", "xml"]))
    compression, headers = draw(compressions)
    renamed = draw(names)
    if syntax == "json":
        headers = {**headers, **draw(content_types)}
    return ReplyForm(
        members=draw(members),
        names=renamed,
        after_tokens=draw(st.sampled_from(["", "", "\n", " ", "\t", "\r\n"])),
        expiry=draw(st.sampled_from(["seconds", "text", "milliseconds", "expires_on", "expires_at"])),
        inside=() if syntax == "form" else draw(places),
        outer=draw(outer_members),
        repeated=draw(repeated),
        cut_after=draw(st.sampled_from([None, None, renamed.get("refresh_token", "refresh_token"), "name", "user"])),
        syntax=syntax,
        charset=draw(charsets),
        compression=compression,
        headers=headers,
    )


def run_in_many_forms(clock: time_machine.Traveller, tally: Tally, storm: str, *, examples: int) -> None:
    """Let no reply in so many forms cost the user a login, and report to `tally`."""

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(forms())
    def run(form: ReplyForm) -> None:
        counts = asyncio.run(strict_run(form, clock))
        tally.add(storm, counts)
        assert (counts.reuses, counts.users_lost) == (0, 0)
        assert counts.refreshes == PROCESSES * RENEWALS_IN_EACH + 1

    run()


# --- the tests -------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)  # it takes seconds; to shrink a failing form takes minutes
def test_v1_no_odd_reply_costs_a_grant_or_a_rotated_refresh_token(clock: time_machine.Traveller, tally: Tally) -> None:
    run_in_many_forms(clock, tally, "odd replies", examples=EXAMPLES)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_v1_none_of_very_many_odd_replies_costs_a_grant_or_a_rotated_refresh_token(
    clock: time_machine.Traveller, tally: Tally
) -> None:
    run_in_many_forms(clock, tally, "many odd replies", examples=MANY_EXAMPLES)


@pytest.mark.parametrize("name", DIALECTS)
async def test_v1_no_dialect_costs_a_grant_or_a_rotated_refresh_token(clock: time_machine.Traveller, name: str) -> None:
    counts = await strict_run(DIALECTS[name], clock)
    assert (counts.reuses, counts.users_lost) == (0, 0)
