"""A5, A8, N5: which 401s are about the access token."""

import json
from pathlib import Path
from typing import Any

import pytest

from tokenflight.bearer import means_invalid_token

CASES = json.loads((Path(__file__).parent / "cases" / "challenges.json").read_text())["cases"]

ABOUT_THE_TOKEN = {
    "a DPoP challenge without an error": ['DPoP algs="ES256"'],
    "a vendor's own scheme": ['Token realm="api"', "Zoho-oauthtoken", "GoogleLogin realm=x"],
    "Bearer beside Negotiate with its credentials": ["Negotiate YIIabc", "Bearer"],
    "Bearer after Basic without a comma": ['Basic realm="gw" Bearer error="invalid_token"'],
    "one challenge of several that is about the token": [
        'Bearer error="insufficient_scope"',
        'DPoP error="invalid_token"',
    ],
    "an unquoted error": ["Bearer error=invalid_token"],
    "the error in capitals": ['Bearer error="INVALID_TOKEN"'],
    "a scheme in capitals": ['BEARER ERROR="invalid_token"'],
    "the name of another scheme in a quoted realm": ['Bearer realm="Basic, Digest"'],
    "an error without a scheme": ['error="invalid_token"'],
    "a realm without a scheme": ['realm="api"'],
    "no challenge in the field": ["?"],
    "a comma after the scheme": ['Bearer, error="invalid_token"'],
    "an error that is never closed": ['Bearer error="invalid_token'],
    "Bearer after an unquoted realm": ["Basic realm=gw Bearer"],
    "a vendor's scheme after an unquoted realm": ["Basic realm=gw OAuth realm=api"],
    "Bearer after a realm that is never closed": ['Basic realm="gw', "Bearer"],
    "Bearer after credentials with a slash": ["Negotiate YII/ab+c==", "Bearer"],
    "insufficient_scope in the words alone": [
        'Bearer error="invalid_token", error_description="no insufficient_scope"'
    ],
    "an empty error": ['Bearer error=""'],
}
NOT_ABOUT_THE_TOKEN = {
    "NTLM with its credentials": ["NTLM TlRMTVNTUAABAAAA"],
    "Negotiate with padded credentials": ["Negotiate YIIabc=="],
    "Negotiate and NTLM": ["Negotiate", "NTLM"],
    "Basic in capitals": ['BASIC realm="gw"'],
    "insufficient_scope unquoted": ["Bearer error=insufficient_scope"],
    "insufficient_scope in capitals": ['Bearer error="Insufficient_Scope", scope="admin"'],
    "insufficient_scope under a vendor's scheme": ['OAuth error="insufficient_scope"'],
    "step-up authentication (RFC 9470)": ['Bearer error="insufficient_user_authentication", acr_values="high"'],
    "a DPoP proof that is no good (RFC 9449)": ['DPoP error="invalid_dpop_proof"'],
    "claims that a login has to bring (Entra)": ['Bearer error="insufficient_claims", claims="e30="'],
    "a DPoP proof without the nonce (RFC 9449)": ['DPoP error="use_dpop_nonce"'],
    "Bearer in the realm of a gateway": ['Basic realm="Bearer"'],
    "Negotiate with a slash in its credentials": ["Negotiate YII/abc"],
    "NTLM with slashes in its credentials": ["NTLM TlRM/ab+cd/ef", "Negotiate YII/q=="],
    "a realm that is never closed": ['Basic realm="My gateway'],
    "an unquoted realm of several words": ["Basic realm=Restricted Area 51", "Digest realm=x"],
    "a realm in single quotes": ["Basic realm='My gateway'"],
    "insufficient_scope in single quotes": ["Bearer error='insufficient_scope', scope='a b'"],
    "insufficient_scope in escaped quotes": [r"Bearer error=\"insufficient_scope\""],
    "insufficient_scope with a hyphen": ['Bearer error="insufficient-scope"'],
    "insufficient_scope in camel case": ["Bearer error=InsufficientScope scope=admin"],
    "insufficient_scope that is never closed": ['Bearer error="insufficient_scope'],
    "insufficient_scope after a realm that is never closed": ['Bearer realm="api, error="insufficient_scope"'],
    "insufficient_scope between semicolons": ["Bearer realm=api; error=insufficient_scope; scope=admin"],
    "insufficient_scope without a scheme": ['error="insufficient_scope"'],
    "insufficient_scope beside a scheme that was not tried": ['Bearer error="insufficient_scope"', 'DPoP algs="ES256"'],
    "step-up authentication in capitals": ['BEARER ERROR="INSUFFICIENT-USER-AUTHENTICATION", MAX_AGE="5"'],
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"A8 {case['name']}")
def test_a5_a8_a_401_renews_the_token_as_its_challenges_say(case: dict[str, Any]) -> None:
    assert means_invalid_token(", ".join(case["www_authenticate"])) is case["renews"]


@pytest.mark.parametrize("challenges", ABOUT_THE_TOKEN.values(), ids=ABOUT_THE_TOKEN)
def test_a8_any_scheme_for_tokens_is_about_the_token(challenges: list[str]) -> None:
    assert means_invalid_token(", ".join(challenges))


@pytest.mark.parametrize("challenges", NOT_ABOUT_THE_TOKEN.values(), ids=NOT_ABOUT_THE_TOKEN)
def test_a5_n5_what_a_new_token_would_not_cure_renews_nothing(challenges: list[str]) -> None:
    assert not means_invalid_token(", ".join(challenges))
