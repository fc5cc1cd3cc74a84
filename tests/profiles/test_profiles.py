"""A profile states facts that hold together, and says so at once where they do not."""

import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, Final

import pytest

from kit.provider_table import PAGE, bases, render
from tokenflight import profiles
from tokenflight.errors import ConfigurationError
from tokenflight.profiles import ErrorReply, ErrorRule, Profile, Revocation, Verdict

VENDORS: Final = [
    value for value in vars(profiles).values() if isinstance(value, Profile) and value is not profiles.STANDARD
]


def test_there_are_profiles_of_more_than_forty_vendors() -> None:
    assert len(VENDORS) > 40


@pytest.mark.parametrize("vendor", VENDORS, ids=[vendor.name for vendor in VENDORS])
def test_a_vendor_is_found_by_its_name_and_by_its_constant(vendor: Profile) -> None:
    assert profiles.get(vendor.name) is vendor
    assert getattr(profiles, vendor.name.upper()) is vendor
    assert vendor.name.upper() in profiles.__all__


@pytest.mark.parametrize("vendor", VENDORS, ids=[vendor.name for vendor in VENDORS])
def test_a_vendor_is_complete_once_its_variables_are_filled_in(vendor: Profile) -> None:
    complete = vendor.at(**dict.fromkeys(vendor.variables, "acme"))
    assert complete.variables == frozenset()
    assert complete.token_endpoint is not None
    assert "{" not in complete.token_endpoint
    assert complete.token_endpoint.startswith("https://")
    assert replace(complete, name="mine").name == "mine"


@pytest.mark.parametrize(("name", "hint"), [("slak", "slack"), ("Okta", "okta"), ("zzz", None), ("", None), (7, None)])
def test_an_unknown_name_is_an_error_that_helps(name: Any, hint: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        profiles.get(name)
    assert ("did you mean" in str(caught.value)) is (hint is not None)
    assert hint is None or repr(hint) in str(caught.value)


# Templates


def test_at_fills_every_endpoint_in() -> None:
    keycloak = profiles.KEYCLOAK.at(host="sso.example", realm="staff")
    assert keycloak.issuer == "https://sso.example/realms/staff"
    assert keycloak.token_endpoint == "https://sso.example/realms/staff/protocol/openid-connect/token"
    assert keycloak.revocation is not None
    assert keycloak.revocation.endpoint == "https://sso.example/realms/staff/protocol/openid-connect/revoke"
    assert profiles.KEYCLOAK.variables == {"host", "realm"}


def test_the_clients_own_id_is_no_variable() -> None:
    assert profiles.GITHUB.variables == frozenset()
    revocation = profiles.GITHUB.at().revocation
    assert revocation is not None
    assert "{client_id}" in revocation.endpoint


@pytest.mark.parametrize("value", ["contoso.onmicrosoft.com", "72f988bf-86f1", "a", "com.au", "1234567_SB1", "A" * 253])
def test_a_variable_is_a_part_of_a_host_or_a_path(value: str) -> None:
    assert f"/{value}/" in str(profiles.ENTRA.at(tenant=value).token_endpoint)


@pytest.mark.parametrize(
    "value",
    ["", "a/b", "evil.example#", "a@b", "a b", "a?b", "{x}", "ä", ".", "-a", "a.", "a\n", "a:1", "A" * 254, None, 7],
)
def test_a_variable_leads_nowhere_else(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="tenant must be letters"):
        profiles.ENTRA.at(tenant=value)


@pytest.mark.parametrize("values", [{}, {"tenant": "a", "shop": "b"}, {"shop": "b"}])
def test_the_variables_must_be_the_profiles_own(values: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="the profile entra wants tenant, not"):
        profiles.ENTRA.at(**values)


def test_a_profile_without_variables_wants_nothing() -> None:
    assert profiles.SLACK.at() == profiles.SLACK
    with pytest.raises(ConfigurationError, match="wants nothing, not shop"):
        profiles.SLACK.at(shop="b")


# Validation

BAD_ENDPOINTS: Final = [
    *("", "x", "/token", "ftp://x.example", "https://", "https://a b", "https://x.example/{T}", 7),
    *("https://u:p@x.example", "https://x.example#f", "https://[::1", "https://x.example/{", "https://x\n"),
]


@pytest.mark.parametrize("url", BAD_ENDPOINTS)
@pytest.mark.parametrize("name", ["issuer", "token_endpoint", "refresh_endpoint", "userinfo_endpoint"])
def test_an_endpoint_is_a_url_or_a_template_of_one(name: str, url: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Profile(name="mine", **{name: url})
    with pytest.raises(ConfigurationError, match="endpoint"):
        Revocation(endpoint=url)


@pytest.mark.parametrize(
    "url", ["https://x.example", "http://localhost:8080/token", "https://{a}.example/{b}/t?x", "https://{h}"]
)
def test_an_endpoint_may_be_a_template(url: str) -> None:
    assert Profile(name="mine", token_endpoint=url).token_endpoint == url


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": None},
        {"rotation": "daily"},
        {"client_authentication": "basic"},
        {"request_format": "query"},
        {"request_format": None},
        {"refresh_format": "xml"},
        {"refresh_credential": "id_token"},
        {"scope_separator": ""},
        {"offline_scope": ""},
        {"client_id_parameter": None},
        {"refresh_parameter": ""},
        {"access_token_header": None},
        {"access_token_scheme": ""},
        {"grace": -1},
        {"grace": None},
        {"assumed_lifetime": float("inf")},
        {"earliest_renewal": "30"},
        {"refresh_token_lifetime": True},
        {"refresh_token_idle_lifetime": float("nan")},
        {"refresh_parameters": {"a": 1}},
        {"token_parameters": {"": "a"}},
        {"login_parameters": ["a"]},
        {"authorization_parameters": {"a": ""}},
        {"token_request_headers": None},
        {"omitted_refresh_parameters": "grant_type"},
        {"tokens_at": "body"},
        {"error_rules": [7]},
        {"revocation": "https://x.example"},
        {"read_reply": "body"},
        {"classify": 7},
        {"tokens_at": ("a",), "read_reply": dict},
    ],
)
def test_what_no_vendor_can_mean_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Profile(**{"name": "mine", **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "PUT"},
        {"request_format": "xml"},
        {"parameter": ""},
        {"credential": "code"},
        {"authentication": "basic"},
        {"ends": "session"},
    ],
)
def test_what_no_revocation_can_mean_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Revocation(**{"endpoint": "https://x.example", **wrong})


@pytest.mark.parametrize("wrong", [{}, {"error": ""}, {"words": 7}, {"status": "400"}, {"status": True}])
def test_a_rule_without_a_condition_or_with_a_wrong_one_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ErrorRule(Verdict.PASSING, **wrong)


def test_a_rules_verdict_is_a_verdict() -> None:
    with pytest.raises(ConfigurationError, match="verdict must be a Verdict"):
        ErrorRule("refused", error="x")  # type: ignore[arg-type] # as an app without types may write it


def test_a_rule_matches_what_it_names_and_nothing_else() -> None:
    reply = ErrorReply(400, {}, {}, codes=("odd", "190"), words="the token is dead")
    assert ErrorRule(Verdict.REFUSED, error="ODD").matches(reply)
    assert ErrorRule(Verdict.REFUSED, error="190", words="Is Dead", status=400).matches(reply)
    assert not ErrorRule(Verdict.REFUSED, error="od").matches(reply)
    assert not ErrorRule(Verdict.REFUSED, error="odd", words="alive").matches(reply)
    assert not ErrorRule(Verdict.REFUSED, error="odd", status=401).matches(reply)


# Values


def test_a_profile_does_not_change_with_the_dict_that_it_was_made_of() -> None:
    parameters = {"a": "1"}
    mine = Profile(name="mine", token_parameters=parameters)
    parameters["b"] = "2"
    assert mine.token_parameters == {"a": "1"}


def test_profiles_are_values() -> None:
    assert hash(profiles.SLACK) == hash(replace(profiles.SLACK))
    assert replace(profiles.SLACK) == profiles.SLACK
    assert pickle.loads(pickle.dumps(profiles.SLACK_USER)) == profiles.SLACK_USER
    with pytest.raises(FrozenInstanceError):
        profiles.SLACK.name = "other"  # type: ignore[misc] # that is what this is about


@pytest.mark.parametrize(
    ("vendor", "seconds", "may"),
    [
        (profiles.GOOGLE, 1e9, True),
        (profiles.ENTRA, 1e9, True),
        (profiles.SHOPIFY, 1e9, True),
        (profiles.XERO, 1799, True),
        (profiles.XERO, 1800, False),
        (profiles.GITHUB, 0, False),
        (profiles.BOX, 0, False),
        (profiles.AUTH0, 0, False),
        (profiles.STANDARD, 0, False),
    ],
)
def test_t6_a_refresh_token_is_sent_again_only_where_the_vendor_bears_it(
    vendor: Profile, seconds: float, may: bool
) -> None:
    assert vendor.may_resend(seconds) is may


# Facts


def test_every_fact_carries_its_basis() -> None:
    assert bases().keys() == {vendor.name for vendor in VENDORS}
    without = [
        f"{name}.{fact}"
        for name, facts in bases().items()
        for fact, basis in facts.items()
        if not basis.startswith(("documented", "seen"))
    ]
    assert without == []


def test_the_page_about_providers_is_that_of_the_profiles() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run python tests/kit/provider_table.py"


def test_every_member_is_needed_by_a_vendor() -> None:
    standard = {item.name: getattr(profiles.STANDARD, item.name) for item in fields(Profile)}
    unused = {name for name, value in standard.items() if all(getattr(vendor, name) == value for vendor in VENDORS)}
    assert unused == set()
