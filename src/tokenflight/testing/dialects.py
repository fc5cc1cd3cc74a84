"""Token replies and errors as vendors write them, for tests of an app that talks to such a vendor.

Each `ReplyForm` is a value for `FakeProvider.reply_form`, each `VendorError` one for `FakeProvider.fail`::

    fake = FakeProvider(reply_form=dialects.SLACK_USER)
    fake.fail(dialects.SLACK_REFUSAL, times=1)
"""

from typing import Final

from tokenflight.testing.faults import VendorError
from tokenflight.testing.reply_forms import ReplyForm

# Vendors' replies

SLACK_BOT: Final = ReplyForm(members={"ok": True, "token_type": "bot", "team": {"id": "T1"}})
SLACK_USER: Final = ReplyForm(inside=("authed_user",), members={"token_type": "user", "id": "U1"}, outer={"ok": True})
WITHINGS: Final = ReplyForm(inside=("body",), members={"userid": "1"}, outer={"status": 0})
EBAY: Final = ReplyForm(members={"token_type": "User Access Token"})
SALESFORCE: Final = ReplyForm(
    members={"issued_at": "1763000000000", "instance_url": "https://app.salesforce.example", "signature": "c2ln"},
    names={"expires_in": None},
)
"""Tells no lifetime."""
ZOHO: Final = ReplyForm(expiry="milliseconds")
ENTRA_V1: Final = ReplyForm(expiry="expires_on")
QUICKBOOKS: Final = ReplyForm(members={"token_type": "bearer", "x_refresh_token_expires_in": 8_726_400})
GITHUB: Final = ReplyForm(members={"token_type": "bearer", "refresh_token_expires_in": 15_811_200, "scope": ""})

# Forms that gateways and older servers give a reply

GZIP: Final = ReplyForm(compression="gzip")
"""The client asks for ``identity``."""
DEFLATE: Final = ReplyForm(compression="deflate")
RAW_DEFLATE: Final = ReplyForm(compression="raw deflate")
IDENTITY_IN_CAPITALS: Final = ReplyForm(headers={"Content-Encoding": "IDENTITY"})
BYTE_ORDER_MARK: Final = ReplyForm(charset="utf-8-sig")
UTF_16: Final = ReplyForm(charset="utf-16")
LATIN_1: Final = ReplyForm(charset="latin-1", members={"name": "José"})
"""JSON is UTF-8 (RFC 8259 §8.1)."""
FORM_ENCODED: Final = ReplyForm(syntax="form")
XML: Final = ReplyForm(syntax="xml")
CAMEL_CASE: Final = ReplyForm(
    names={
        "access_token": "accessToken",
        "refresh_token": "refreshToken",
        "expires_in": "expiresIn",
        "token_type": "tokenType",
    }
)
NO_TOKEN_TYPE: Final = ReplyForm(names={"token_type": None})
TOKEN_TYPE_N_A: Final = ReplyForm(members={"token_type": "N_A"})
"""Not applicable (RFC 8693 §2.2.1)."""
NO_EXPIRY: Final = ReplyForm(names={"expires_in": None})
EXPIRY_AS_TEXT: Final = ReplyForm(expiry="text")
EXPIRY_AS_DATE: Final = ReplyForm(expiry="expires_at")
NEWLINE_AFTER_TOKENS: Final = ReplyForm(after_tokens="\n")
REPEATED_MEMBER: Final = ReplyForm(members={"scope": "a"}, repeated={"scope": ...})
CONTRADICTORY_MEMBER: Final = ReplyForm(members={"scope": "a"}, repeated={"scope": "b"})
NO_ACCESS_TOKEN: Final = ReplyForm(names={"access_token": None})
"""No caller can be served, but the refresh token is a new one."""
CUT_OFF: Final = ReplyForm(cut_after="refresh_token")

# Vendors' errors

GITHUB_REFUSAL: Final = VendorError({"error": "bad_refresh_token", "error_uri": "https://docs.example"})
SLACK_REFUSAL: Final = VendorError({"ok": False, "error": "invalid_refresh_token"})
ZOHO_REFUSAL: Final = VendorError({"error": "invalid_code"})
FITBIT_REFUSAL: Final = VendorError(
    {"errors": [{"errorType": "invalid_grant", "message": "Refresh token invalid"}], "success": False}, status=400
)
STRAVA_REFUSAL: Final = VendorError(
    {
        "message": "Bad Request",
        "errors": [{"resource": "RefreshToken", "field": "refresh_token", "code": "invalid"}],
    },
    status=400,
)
HUBSPOT_REFUSAL: Final = VendorError(
    {"status": "BAD_REFRESH_TOKEN", "message": "missing or invalid refresh token"}, status=400
)
ATLASSIAN_REFUSAL: Final = VendorError(
    {"error": "unauthorized_client", "error_description": "refresh_token is invalid"}, status=403
)
NESTED_REFUSAL: Final = VendorError(
    {"error": {"message": "refresh token already used", "code": "refresh_token_reused"}}, status=401
)
GOOGLE_SESSION_CONTROL: Final = VendorError({"error": "invalid_grant", "error_subtype": "invalid_rapt"}, status=400)
SLACK_RATE_LIMIT: Final = VendorError({"ok": False, "error": "ratelimited"}, headers={"Retry-After": "20"})
FACEBOOK_TRANSIENT: Final = VendorError(
    {"error": {"message": "temporarily unavailable", "type": "OAuthException", "is_transient": True, "code": 2}},
    status=400,
)
EXACT_ONLINE_TOO_EARLY: Final = VendorError(
    {"error": "access_denied", "error_description": "Rate limit exceeded: access_token not expired"}, status=401
)
"""The access token that the client has is still good."""
