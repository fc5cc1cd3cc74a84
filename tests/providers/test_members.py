"""V5, V11: times and names of a reply's members, in the forms that vendors give them."""

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest

from kit.reply_cases import NOW
from tokenflight._token_times import MAX_LIFETIME_SECONDS
from tokenflight.providers._replies.members import standard_members
from tokenflight.tokens import TokenSet

LATER = datetime.fromtimestamp(NOW + 3600, UTC)


def values(**members: Any) -> dict[str, object]:
    return standard_members({"access_token": "at-1", **members}).values(NOW)


def lifetime_of(members: dict[str, Any]) -> float | None:
    found = standard_members({"access_token": "at-1", **members}).values(NOW)
    return TokenSet.from_response(found, received_at=NOW).lifetime


@pytest.mark.parametrize(
    "members",
    [
        {"expires_in": 3600},
        {"expires_in": "3600"},
        {"expires_in": 3600.0},
        {"expires_in": " 3600 "},
        {"expires_in": "3600.0"},
        {"expiresIn": 3600},
        {"expires_in_sec": 3600, "expires_in": 3_600_000},
        {"expires_in_seconds": 3600},
        {"expires_in": int(NOW) + 3600},
        {"expires": "3600"},
        {"expires": int(NOW) + 3600},
        {".expires": format_datetime(LATER, usegmt=True), ".issued": "x"},
        {"expires_at": NOW + 3600},
        {"expires_at": str(int(NOW) + 3600)},
        {"expires_at": int(NOW + 3600) * 1000},
        {"expires_at": str(int(NOW + 3600) * 1000)},
        {"expires_on": str(int(NOW) + 3600)},
        {"expiresAt": LATER.isoformat()},
        {"expires_at": LATER.isoformat().replace("+00:00", "Z")},
        {"expires_at": LATER.strftime("%Y-%m-%d %H:%M:%S")},
        {"expires_at": LATER.strftime("%Y-%m-%d %H:%M:%S UTC")},
        {"expires_at": LATER.strftime("%Y-%m-%dT%H:%M:%SUTC")},
        {"expiry": format_datetime(LATER)},
        {"expiration": LATER.isoformat()},
        {"expires_in": 3600, "expires_at": NOW + 60},
        {"expires_in": "soon", "expires_at": NOW + 3600},
        {"expires_in": 0, "expires_on": NOW + 3600},
        {"expires_in": 10**300, "expires_at": NOW + 3600},
        {"expires_in_ms": 3_600_000},
        {"expires_in": 3_600_000, "valid_until": LATER.isoformat()},
        {"accessTokenExpirationTimestamp": LATER.isoformat()},
        {"expires_in": "3600s"},
        {"expires_in": "60 minutes"},
        {"expires_in": "1h0m0s"},
        {"expires_at": f"/Date({int(NOW + 3600) * 1000})/"},
        {"expires_at": LATER.strftime("%A, %d-%b-%y %H:%M:%S GMT")},
        {"expires_at": int(NOW + 3600) * 1_000_000},
        {"expires_at": int(NOW + 3600) * 1_000_000_000},
    ],
)
def test_v5_a_lifetime_is_read_in_each_form(members: dict[str, Any]) -> None:
    assert lifetime_of(members) == 3600


@pytest.mark.parametrize("days", [7, 30, 60])
def test_v5_a_lifetime_that_can_only_be_milliseconds_is_read_so(days: int) -> None:
    assert lifetime_of({"expires_in": days * 86_400_000}) == days * 86_400
    assert values(refresh_token_expires_in=days * 86_400_000)["refresh_token_expires_in"] == days * 86_400


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, "soon", "", -1, 0, "-3600", float("nan"), float("inf"), 1e300, 10**400, [], {}, "NaN"),
        *(
            "s",
            "3600 x",
            "-3600s",
            "0001-01-01T00:00:00Z",
            MAX_LIFETIME_SECONDS + 1,
            "9" * 5000,
            "2027-13-01",
            "Fri, 99 Jan 2027 08:00:00 GMT",
        ),
    ],
)
@pytest.mark.parametrize("name", ["expires_in", "expires_at", "expires_on", "expires"])
def test_r3_v5_a_time_that_makes_no_sense_is_unknown(name: str, value: object) -> None:
    assert lifetime_of({name: value}) is None
    assert {"expires_in", "expires_at"}.isdisjoint(values(**{name: value}))


@pytest.mark.parametrize(
    "members",
    [
        {"refresh_token_expires_in": 8640000},
        {"refreshTokenExpiresIn": "8640000"},
        {"x_refresh_token_expires_in": 8640000},
        {"refresh_expires_in": 8640000},
        {"refresh_token_lifetime": 8640000},
        {"refreshTokenValidity": "8640000"},
        {"refresh_token_expires_in_ms": 8640000000},
        {"x_refresh_token_hard_expires_in": 157680000, "x_refresh_token_expires_in": 8640000},
        {"x_refresh_token_hard_expires_in": 8640000, "x_refresh_token_expires_in": 157680000},
    ],
)
def test_v11_the_life_of_a_refresh_token_is_read(members: dict[str, Any]) -> None:
    assert values(**members)["refresh_token_expires_in"] == 8640000
    assert members.keys().isdisjoint(standard_members(members).others)


def test_v11_the_end_of_a_refresh_token_may_be_a_moment() -> None:
    assert values(refresh_token_expires_at=LATER.isoformat())["refresh_token_expires_at"] == NOW + 3600
    assert values(refresh_token_expires_in=int(NOW) + 60)["refresh_token_expires_at"] == NOW + 60


@pytest.mark.parametrize("value", [0, -1, None, "never", True])
def test_v11_a_refresh_token_that_never_expires_has_no_end(value: object) -> None:
    assert {"refresh_token_expires_in", "refresh_token_expires_at"}.isdisjoint(values(refresh_expires_in=value))


@pytest.mark.parametrize(
    ("value", "known"), [(43199, True), ("43199", True), (0, False), (-1, False), (NOW, False), (None, False)]
)
def test_a_wish_to_be_renewed_ahead_is_a_positive_number_of_seconds(value: object, known: bool) -> None:
    assert ("refresh_in" in values(refresh_in=value)) is known


def test_what_is_no_standard_member_keeps_its_name_and_value() -> None:
    others = {"realmId": 1, "issued_at": "1800000000000", "x": {"access_token": "other"}, "": None}
    assert standard_members({"access_token": "at-1", "Expires-In": 60, **others}).others == others
