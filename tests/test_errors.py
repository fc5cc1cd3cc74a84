"""The error tree: its shape, its codes, and that every error travels as plain data."""

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import get_args

import pytest

from tokenflight import errors
from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    LeaseTimeout,
    ProviderMisconfigured,
    ProviderUnavailable,
    ReauthenticationReason,
    ReauthenticationRequired,
    StoreConflict,
    StoreCorrupted,
    StoreError,
    StoreUnavailable,
    TokenflightError,
    TokenRefreshError,
)

PARENT_AND_CODE: dict[type[TokenflightError], tuple[type[Exception], str]] = {
    TokenflightError: (Exception, "error"),
    TokenRefreshError: (TokenflightError, "refresh_failed"),
    ReauthenticationRequired: (TokenRefreshError, "refused"),
    ProviderUnavailable: (TokenRefreshError, "provider_unavailable"),
    ProviderMisconfigured: (TokenRefreshError, "provider_misconfigured"),
    InvalidProviderResponse: (TokenRefreshError, "invalid_response"),
    StoreError: (TokenflightError, "store_error"),
    StoreUnavailable: (StoreError, "store_unavailable"),
    StoreCorrupted: (StoreError, "store_corrupted"),
    StoreConflict: (StoreError, "store_conflict"),
    LeaseTimeout: (StoreError, "lease_timeout"),
    ConfigurationError: (TokenflightError, "configuration"),
}
REFRESH_ERRORS = [kind for kind in PARENT_AND_CODE if issubclass(kind, TokenRefreshError)]


def complete(kind: type[TokenflightError]) -> TokenflightError:
    """An error of `kind` with every attribute it can have."""
    if not issubclass(kind, TokenRefreshError):
        return kind("what happened", code="finer")
    if issubclass(kind, ProviderUnavailable):
        return kind(
            "what happened",
            code="finer",
            user_id="alice",
            provider="idp",
            error="slow_down",
            error_description="not so fast",
            retry_after=1.5,
        )
    return kind(
        "what happened",
        code="finer",
        user_id="alice",
        provider="idp",
        error="invalid_grant",
        error_description="expired",
    )


def test_the_module_defines_exactly_the_tree() -> None:
    defined = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}

    assert defined == set(PARENT_AND_CODE)


@pytest.mark.parametrize("kind", PARENT_AND_CODE)
def test_each_error_has_one_parent_and_a_stable_code(kind: type[TokenflightError]) -> None:
    parent, code = PARENT_AND_CODE[kind]

    assert kind.__bases__ == (parent,)
    assert kind("what happened").code == code


@pytest.mark.parametrize("kind", PARENT_AND_CODE)
def test_each_error_is_caught_by_all_its_parents(kind: type[TokenflightError]) -> None:
    for ancestor in kind.__mro__[: kind.__mro__.index(Exception) + 1]:
        with pytest.raises(ancestor, match="what happened"):
            raise kind("what happened")


@pytest.mark.parametrize("kind", PARENT_AND_CODE)
def test_the_docstring_draws_each_error_below_its_parent(kind: type[TokenflightError]) -> None:
    assert errors.__doc__ is not None
    depth = {line.strip("│├└─ ").split(" ")[0]: line.find(line.strip("│├└─ ")) for line in errors.__doc__.splitlines()}
    parent, _ = PARENT_AND_CODE[kind]

    assert kind.__name__ in depth
    assert parent is Exception or depth[parent.__name__] < depth[kind.__name__]


@pytest.mark.parametrize("kind", PARENT_AND_CODE)
def test_a_finer_code_replaces_that_of_the_class(kind: type[TokenflightError]) -> None:
    assert kind("what happened", code="finer").code == "finer"
    assert kind("what happened").code == kind.default_code


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", PARENT_AND_CODE)
def test_each_error_survives_a_pickle_with_all_its_attributes(kind: type[TokenflightError], protocol: int) -> None:
    error = complete(kind)

    again = pickle.loads(pickle.dumps(error, protocol))

    assert type(again) is kind
    assert (again.args, vars(again), str(again)) == (error.args, vars(error), "what happened")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", PARENT_AND_CODE)
def test_each_error_is_copied_with_all_its_attributes(
    kind: type[TokenflightError], duplicate: Callable[[TokenflightError], TokenflightError]
) -> None:
    error = complete(kind)

    again = duplicate(error)

    assert again is not error
    assert type(again) is kind
    assert (again.args, vars(again), str(again)) == (error.args, vars(error), "what happened")


@pytest.mark.parametrize("kind", REFRESH_ERRORS)
def test_what_a_refresh_error_does_not_know_is_none(kind: type[TokenRefreshError]) -> None:
    error = kind("what happened")

    assert (error.user_id, error.provider, error.error, error.error_description) == (None, None, None, None)


@pytest.mark.parametrize("kind", REFRESH_ERRORS)
def test_a_refresh_error_names_the_user_the_provider_and_the_providers_words(kind: type[TokenRefreshError]) -> None:
    error = kind("what", user_id="alice", provider="idp", error="invalid_grant", error_description="expired")

    assert (error.user_id, error.provider) == ("alice", "idp")
    assert (error.error, error.error_description) == ("invalid_grant", "expired")


def test_an_unavailable_provider_may_say_when_to_come_back() -> None:
    assert ProviderUnavailable("busy").retry_after is None
    assert ProviderUnavailable("busy", retry_after=2.5).retry_after == 2.5


@pytest.mark.parametrize("reason", get_args(ReauthenticationReason))
def test_the_reason_of_a_needed_login_is_its_code(reason: ReauthenticationReason) -> None:
    assert ReauthenticationRequired("log in", code=reason).reason == reason


def test_a_needed_login_without_a_given_reason_is_a_refusal() -> None:
    assert ReauthenticationRequired("log in").reason == "refused"
