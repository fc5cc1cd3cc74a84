"""What a store holds of a token set: today's shape, and the older ones other programs leave behind (System D)."""

import dataclasses
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from kit.strategies import json_values, nested, token_sets
from tokenflight.errors import StoreCorrupted
from tokenflight.tokens import FORMAT_VERSION, TokenSet

NOW = 1_800_000_000
HOUR = 3600.0
ELEVEN_YEARS = 11 * 365 * 86_400
DEEPER_THAN_THE_STACK = 5_000
UNPRINTABLE = 10**5_000
"""More digits than Python is willing to print."""

pytestmark = pytest.mark.usefixtures("at_now")

FIELDS = [field.name for field in dataclasses.fields(TokenSet)]
OLDER_FIELDS = ["expires_in", "obtained_at", "accessToken", "expiresAt", "token", "expiry", "format_version"]


@pytest.fixture(scope="module")
def at_now() -> Iterator[None]:
    """The clock stands still at `NOW`: of what began later, nobody knows when it began."""
    with time_machine.travel(NOW, tick=False):
        yield


def stored(**fields: Any) -> TokenSet:
    return TokenSet.from_dict({"access_token": "at", **fields})


def read(**members: Any) -> TokenSet:
    return TokenSet.from_response({"access_token": "at", **members}, received_at=NOW)


# Today's shape


@given(token_sets)
def test_a_token_set_survives_the_way_through_json(tokens: TokenSet) -> None:
    assert TokenSet.from_dict(json.loads(json.dumps(tokens.to_dict()))) == tokens


def test_a_stored_token_set_names_the_version_of_its_format() -> None:
    assert TokenSet("at").to_dict()["format_version"] == FORMAT_VERSION


def test_what_is_stored_consists_of_plain_strings_that_any_driver_takes() -> None:
    data = read(refresh_token="rt", id_token="idt", tenant=["t1", {"k": "v"}]).to_dict()

    kept = [data["access_token"], data["refresh_token"], data["id_token"], *data["extra"]["tenant"]]
    assert [type(value) for value in kept] == [str, str, str, str, dict]
    assert type(data["extra"]["tenant"][1]["k"]) is str


@pytest.mark.parametrize(
    "version", [FORMAT_VERSION + 1, 0, -1, "1", None, True, 1.5, [], pytest.param(UNPRINTABLE, id="unprintable")]
)
def test_system_d_a_newer_or_senseless_format_version_is_a_clear_error(version: object) -> None:
    with pytest.raises(StoreCorrupted, match="format version") as caught:
        stored(format_version=version)
    assert caught.value.code == "unsupported_format"


@pytest.mark.parametrize("data", [None, [], "at", 5])
def test_a_record_that_is_no_object_is_corrupted(data: Any) -> None:
    with pytest.raises(StoreCorrupted, match="must be a JSON object"):
        TokenSet.from_dict(data)


@pytest.mark.parametrize("data", [{}, {"access_token": ""}, {"access_token": 5}, {"refresh_token": ""}])
@pytest.mark.parametrize("version", [{}, {"format_version": 1}])
def test_a_record_with_neither_an_access_token_nor_a_refresh_token_is_corrupted(
    data: dict[str, object], version: dict[str, object]
) -> None:
    with pytest.raises(StoreCorrupted, match="no access_token"):
        TokenSet.from_dict(version | data)


@given(st.dictionaries(st.sampled_from(FIELDS + OLDER_FIELDS), json_values, max_size=6))
def test_whatever_a_record_holds_it_is_read_or_called_corrupted(fields: dict[str, Any]) -> None:
    try:
        tokens = stored(**fields)
    except StoreCorrupted:
        return
    assert all(at is None or math.isfinite(at) for at in (tokens.expires_at, tokens.issued_at))


def test_r3_a_stored_lifetime_that_adds_up_to_no_time_reads_as_unknown() -> None:
    assert stored(expires_in=1e308, issued_at=1e308).expires_at is None


def test_a_record_nested_too_deeply_is_corrupted() -> None:
    with pytest.raises(StoreCorrupted):
        stored(extra=nested(DEEPER_THAN_THE_STACK))


@pytest.mark.parametrize("extra", [None, [], "text", 5])
def test_a_record_whose_extra_is_no_object_is_read_without_it(extra: object) -> None:
    assert stored(extra=extra).extra == {}


# The older shapes


NINE_O_CLOCK = ["2027-01-15T09:00:00Z", "2027-01-15T09:00:00+00:00", "2027-01-15T10:00:00+01:00", "2027-01-15T09:00:00"]
NINE_O_CLOCK += ["2027-01-15 09:00:00.000000", " 2027-01-15T09:00:00Z ", "20270115T090000Z"]


AT_NINE = [datetime(2027, 1, 15, 9), datetime(2027, 1, 15, 9, tzinfo=UTC)]  # noqa: DTZ001 - as some databases give it


@pytest.mark.parametrize(
    "expires_at", [NOW + 3600, NOW + HOUR, str(NOW + 3600), str(NOW + HOUR), *NINE_O_CLOCK, *AT_NINE]
)
def test_system_d_an_expiry_as_number_numeric_string_iso_8601_or_datetime_is_read(expires_at: object) -> None:
    tokens = TokenSet.from_dict({"access_token": "at", "refresh_token": "rt", "expires_at": expires_at})

    assert tokens == TokenSet("at", refresh_token="rt", expires_at=NOW + HOUR)


@pytest.mark.parametrize("name", ["issued_at", "obtained_at", "created_at", "saved_at"])
@pytest.mark.parametrize("moment", [NOW, float(NOW), str(NOW), "2027-01-15T08:00:00Z"])
def test_system_d_a_lifetime_counts_from_when_the_record_says_it_began(name: str, moment: object) -> None:
    tokens = stored(expires_in=3600, **{name: moment})

    assert (tokens.issued_at, tokens.expires_at) == (NOW, NOW + HOUR)


def test_system_d_a_lifetime_that_began_nobody_knows_when_is_over() -> None:
    assert stored(expires_in=3600).expires_at == 0


def test_system_d_camel_case_names_are_read() -> None:
    tokens = TokenSet.from_dict(
        {
            "accessToken": "at",
            "refreshToken": "rt",
            "expiresAt": NOW + HOUR,
            "idToken": "idt",
            "tokenType": "DPoP",
            "scope": "a b",
        }
    )

    assert tokens == TokenSet("at", "DPoP", NOW + HOUR, "rt", "a b", "idt")


def test_system_d_a_camel_case_lifetime_is_read() -> None:
    assert stored(expiresIn="60", obtained_at=NOW).expires_at == NOW + 60


def test_system_d_token_expires_at_is_read() -> None:
    assert stored(token_expires_at=NOW + HOUR).expires_at == NOW + HOUR


def test_system_d_googles_token_and_expiry_are_read() -> None:
    tokens = TokenSet.from_dict({"token": "at", "refresh_token": "rt", "expiry": "2027-01-15T09:00:00.000000Z"})

    assert tokens == TokenSet("at", refresh_token="rt", expires_at=NOW + HOUR)


MALFORMED: list[object] = [None, "", "soon", "2027-13-45", True, [], {}, math.nan, math.inf, "inf", 10**400, "9" * 400]


@pytest.mark.parametrize("expires_at", MALFORMED, ids=lambda value: repr(value)[:20])
def test_system_d_a_malformed_expiry_reads_as_unknown(expires_at: object) -> None:
    assert stored(expires_at=expires_at).expires_at is None


@pytest.mark.parametrize("expires_in", [None, "", "soon", True, [], {}, math.nan, math.inf])
def test_system_d_a_malformed_lifetime_reads_as_unknown(expires_in: object) -> None:
    assert stored(expires_in=expires_in, issued_at=NOW).expires_at is None


def test_system_d_a_missing_expiry_reads_as_unknown() -> None:
    assert stored().expires_at is None


@pytest.mark.parametrize("expires_in", [ELEVEN_YEARS, 1e12, str(ELEVEN_YEARS)])
def test_r3_a_stored_lifetime_too_long_to_be_one_is_not_cached_for_ever(expires_in: object) -> None:
    assert stored(expires_in=expires_in, issued_at=NOW).expires_at is None


@pytest.mark.parametrize("older_first", [True, False])
def test_system_d_todays_names_come_before_older_ones_wherever_they_stand(older_first: bool) -> None:
    older = {"token": "a csrf token", "expiry": NOW, "refreshToken": "older"}
    todays = {"access_token": "at", "expires_at": NOW + HOUR, "refresh_token": "rt"}

    tokens = TokenSet.from_dict({**older, **todays} if older_first else {**todays, **older})

    assert tokens == TokenSet("at", expires_at=NOW + HOUR, refresh_token="rt")


def test_system_d_an_older_shape_is_written_back_in_todays() -> None:
    older = TokenSet.from_dict({"accessToken": "at", "expiresIn": 60, "created_at": NOW})

    written = older.to_dict()

    assert written.keys() == TokenSet("at").to_dict().keys()
    assert TokenSet.from_dict(written) == older
