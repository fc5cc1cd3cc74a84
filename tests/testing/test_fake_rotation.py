"""When the fake provider replaces a refresh token, and when it still accepts the previous one."""

from typing import Any

import httpx
import pytest
import time_machine

from kit.support import login
from tokenflight import ClientSecretBasic, ConfigurationError, OIDCProvider, ProviderUnavailable, TokenRefresher
from tokenflight.testing import DropReply, FakeProvider, Rotation
from tokenflight.testing.grants import RefreshTokenRules


async def refresh(fake: FakeProvider, refresh_token: str) -> dict[str, Any] | None:
    """The members of the reply, or None where the provider refuses."""
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    async with fake.client(auth=httpx.BasicAuth("app", "s3cret")) as http:
        reply = await http.post("/token", data=form)
    if reply.is_success:
        members: dict[str, Any] = reply.json()
        return members
    assert reply.json()["error"] == "invalid_grant"
    return None


async def refresh_token_after(fake: FakeProvider, refresh_token: str) -> str:
    members = await refresh(fake, refresh_token)
    assert members is not None
    return str(members.get("refresh_token", refresh_token))


async def first_and_second(fake: FakeProvider) -> tuple[str, str]:
    first = str(fake.login("alice")["refresh_token"])
    return first, await refresh_token_after(fake, first)


# --- rotation --------------------------------------------------------------------------------------------------------


async def test_a_provider_that_never_rotates_sends_no_refresh_token_and_accepts_the_old_one_for_ever() -> None:
    fake = FakeProvider(rotation="never")
    refresh_token = fake.login("alice")["refresh_token"]
    for _ in range(3):
        members = await refresh(fake, refresh_token)
        assert members is not None
        assert "refresh_token" not in members
    assert (fake.refreshes("alice"), fake.reuses("alice")) == (3, 0)


async def test_a_provider_that_sometimes_rotates_does_so_at_every_second_refresh_of_a_grant() -> None:
    fake = FakeProvider(rotation="sometimes")
    seen = [str(fake.login("alice")["refresh_token"])]
    for _ in range(4):
        fake.login("bob")  # another grant counts for itself
        seen.append(await refresh_token_after(fake, seen[-1]))
    assert [seen.index(token) for token in seen] == [0, 0, 2, 2, 4]
    assert await refresh(fake, seen[2]) is None
    assert fake.revoked("alice")


async def test_a_provider_that_keeps_the_previous_refresh_token_accepts_it_until_its_successor_is_used() -> None:
    fake = FakeProvider(rotation="keeps_previous")
    first, second = await first_and_second(fake)
    assert second != first
    for _ in range(2):
        assert await refresh_token_after(fake, first) == second
    assert (fake.refreshes("alice"), fake.reuses("alice")) == (3, 0)

    await refresh_token_after(fake, second)
    assert await refresh(fake, first) is None
    assert (fake.reuses("alice"), fake.revoked("alice")) == (1, True)


async def test_a_provider_that_keeps_the_previous_refresh_token_keeps_it_however_long_it_takes(
    clock: time_machine.Traveller,
) -> None:
    fake = FakeProvider(rotation="keeps_previous")
    first, second = await first_and_second(fake)
    clock.shift(365 * 86_400)
    assert await refresh_token_after(fake, first) == second


# --- grace -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", ["always", "sometimes"])
async def test_within_the_grace_the_previous_refresh_token_brings_the_successor_that_was_issued(
    clock: time_machine.Traveller, rotation: Rotation
) -> None:
    fake = FakeProvider(rotation=rotation, grace=30)
    first = str(fake.login("alice")["refresh_token"])
    while (second := await refresh_token_after(fake, first)) == first:
        pass
    clock.shift(29.9)
    late = await refresh(fake, first)
    assert late is not None
    assert late["refresh_token"] == second == fake.current_refresh_token("alice")
    async with fake.client() as http:
        assert (await http.get("/api", headers={"Authorization": f"Bearer {late['access_token']}"})).is_success
    assert (fake.reuses("alice"), fake.revoked("alice")) == (0, False)


@pytest.mark.parametrize("strict", [True, False])
async def test_after_the_grace_it_is_a_reuse_and_a_strict_provider_revokes_the_grant(
    clock: time_machine.Traveller, *, strict: bool
) -> None:
    fake = FakeProvider(grace=30, strict=strict)
    first, second = await first_and_second(fake)
    clock.shift(30)
    assert await refresh(fake, first) is None
    assert (fake.reuses("alice"), fake.revoked("alice")) == (1, strict)
    assert (await refresh(fake, second) is None) == strict


async def test_the_grace_counts_from_the_replacement_and_late_uses_do_not_extend_it(
    clock: time_machine.Traveller,
) -> None:
    fake = FakeProvider(grace=30)
    first, _ = await first_and_second(fake)
    for _ in range(2):
        clock.shift(14)
        assert await refresh(fake, first) is not None
    clock.shift(14)
    assert await refresh(fake, first) is None


async def test_only_the_previous_refresh_token_has_a_grace() -> None:
    fake = FakeProvider(grace=30)
    first, second = await first_and_second(fake)
    await refresh_token_after(fake, second)
    assert await refresh(fake, first) is None
    assert fake.revoked("alice")


async def test_a_revoked_grant_has_no_grace() -> None:
    fake = FakeProvider(grace=30)
    first, _ = await first_and_second(fake)
    fake.revoke("alice")
    assert await refresh(fake, first) is None
    assert fake.reuses("alice") == 0


async def test_a_clock_set_back_does_not_end_the_grace(clock: time_machine.Traveller) -> None:
    fake = FakeProvider(grace=30)
    first, second = await first_and_second(fake)
    clock.shift(-3600)
    assert await refresh_token_after(fake, first) == second


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"rotation": True}, r"rotation must be one of \('always', 'never', 'sometimes', 'keeps_previous'\), not True"),
        ({"rotation": "Always"}, "rotation must be one of"),
        ({"grace": -1}, "grace must be a number of seconds, not -1"),
        ({"grace": float("inf")}, "grace must be a number of seconds"),
    ],
)
def test_a_setting_that_makes_no_sense_is_a_clear_error(settings: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        FakeProvider(**settings)


async def test_the_grace_may_change_at_any_time() -> None:
    fake = FakeProvider()
    first, second = await first_and_second(fake)
    fake.grace = 30
    assert await refresh_token_after(fake, first) == second


def test_the_rules_are_those_of_a_strict_rotating_provider_by_default() -> None:
    assert RefreshTokenRules() == RefreshTokenRules(rotation="always", grace=0, strict=True)


# --- what the library makes of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rotation", "grace"), [("always", 60.0), ("never", 0.0), ("sometimes", 60.0), ("keeps_previous", 0.0)]
)
async def test_r12_a_lost_reply_costs_no_login_where_the_previous_refresh_token_is_accepted(
    clock: time_machine.Traveller, rotation: Rotation, grace: float
) -> None:
    fake = FakeProvider(rotation=rotation, grace=grace)
    async with fake.client() as http:
        provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
        async with TokenRefresher(provider) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
            for _ in range(3):
                fake.fail(DropReply(), times=1)
                with pytest.raises(ProviderUnavailable):
                    await refresher.refresh_token("alice")
                clock.shift(10)
                renewed = await refresher.refresh_token("alice")
                assert renewed.refresh_token == fake.current_refresh_token("alice")
                assert renewed.lifetime == 3600
    assert (fake.reuses(), fake.revoked("alice")) == (0, False)
