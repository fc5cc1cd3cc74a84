"""Customers, books, people: CRM, accounting, HR and support."""

from typing import Final

from tokenflight.profiles.base import ErrorRule, Profile, Revocation, Verdict

_DAY: Final = 86_400.0

SALESFORCE: Final = Profile(
    name="salesforce",
    token_endpoint="https://{domain}.salesforce.com/services/oauth2/token",  # documented: login, test, or my domain
    authorization_endpoint="https://{domain}.salesforce.com/services/oauth2/authorize",  # documented
    introspection_endpoint="https://{domain}.salesforce.com/services/oauth2/introspect",  # documented
    userinfo_endpoint="https://{domain}.salesforce.com/services/oauth2/userinfo",  # documented
    revocation=Revocation(endpoint="https://{domain}.salesforce.com/services/oauth2/revoke"),  # seen
    client_authentication="client_secret_post",  # seen
    offline_scope="refresh_token offline_access",  # seen
    rotation="sometimes",  # documented: a setting of the app
    error_rules=(  # seen
        ErrorRule(Verdict.PASSING, words="already being processed"),
        ErrorRule(Verdict.PASSING, error="unknown_error", words="retry your request"),
        ErrorRule(Verdict.PASSING, words="login rate exceeded"),
        ErrorRule(Verdict.REFUSED, error="inactive_user"),
        ErrorRule(Verdict.REFUSED, error="invalid_grant", words="expired access/refresh token"),
        ErrorRule(Verdict.REFUSED, error="invalid_grant", words="inactive user"),
    ),
)

HUBSPOT: Final = Profile(
    name="hubspot",
    token_endpoint="https://api.hubapi.com/oauth/v3/token",  # documented: v1 ends in 2027
    authorization_endpoint="https://app.hubspot.com/oauth/authorize",  # documented
    client_authentication="client_secret_post",  # documented
    rotation="never",  # documented
    assumed_lifetime=1800.0,  # documented
    error_rules=(ErrorRule(Verdict.REFUSED, error="bad_refresh_token"),),  # documented
)

XERO: Final = Profile(
    name="xero",
    issuer="https://identity.xero.com",  # documented
    token_endpoint="https://identity.xero.com/connect/token",  # documented
    authorization_endpoint="https://login.xero.com/identity/connect/authorize",  # documented
    client_authentication="client_secret_basic",  # seen
    offline_scope="offline_access",  # documented
    rotation="always",  # documented
    grace=1800.0,  # documented: where no reply arrived
    refresh_token_idle_lifetime=60 * _DAY,  # documented
)

QUICKBOOKS: Final = Profile(
    name="quickbooks",
    token_endpoint="https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer",  # documented
    authorization_endpoint="https://appcenter.intuit.com/connect/oauth2",  # documented
    revocation=Revocation(  # documented
        endpoint="https://developer.api.intuit.com/v2/oauth2/tokens/revoke", request_format="json"
    ),
    client_authentication="client_secret_basic",  # documented
    token_request_headers={"x-include-refresh-token-hard-expires-in": "true"},  # documented: else it is not told
    rotation="sometimes",  # seen: about once a day, and the same value in between
    refresh_token_idle_lifetime=100 * _DAY,  # documented
    refresh_token_lifetime=5 * 365 * _DAY,  # documented
)

ZOHO: Final = Profile(
    name="zoho",
    token_endpoint="https://accounts.zoho.{region}/oauth/v2/token",  # documented: com, eu, in, com.au, jp, …
    authorization_endpoint="https://accounts.zoho.{region}/oauth/v2/auth",  # documented
    client_authentication="client_secret_post",  # documented
    authorization_parameters={"access_type": "offline", "prompt": "consent"},  # documented
    rotation="never",  # documented: at most twenty for a user, the oldest ends silently
    access_token_scheme="Zoho-oauthtoken",  # documented
    error_rules=(  # documented, with status 200
        ErrorRule(Verdict.REFUSED, error="invalid_code"),
        ErrorRule(Verdict.PASSING, words="too many requests"),
    ),
)

EXACT_ONLINE: Final = Profile(
    name="exact_online",
    token_endpoint="https://start.exactonline.{country}/api/oauth2/token",  # seen
    authorization_endpoint="https://start.exactonline.{country}/api/oauth2/auth",  # seen
    rotation="always",  # seen
    earliest_renewal=30.0,  # seen
    refresh_token_idle_lifetime=30 * _DAY,  # seen
    error_rules=(ErrorRule(Verdict.NOT_YET, words="access_token not expired"),),  # seen
)

WORKDAY: Final = Profile(
    name="workday",
    token_endpoint="https://{host}/ccx/oauth2/{tenant}/token",  # seen
    client_authentication="client_secret_basic",  # seen
    assumed_lifetime=3600.0,  # seen
    keeps_login_refresh_token=True,  # seen: with refresh tokens that do not expire
)

NETSUITE: Final = Profile(
    name="netsuite",
    token_endpoint="https://{account}.suitetalk.api.netsuite.com/services/rest/auth/oauth2/v1/token",  # seen
    authorization_endpoint="https://{account}.app.netsuite.com/app/login/oauth2/authorize.nl",  # seen
    refresh_token_lifetime=7 * _DAY,  # seen
)

ZENDESK: Final = Profile(
    name="zendesk",
    token_endpoint="https://{subdomain}.zendesk.com/oauth/tokens",  # seen
    authorization_endpoint="https://{subdomain}.zendesk.com/oauth/authorizations/new",  # seen
    token_parameters={"expires_in": "1800"},  # seen: tokens expire only where a request says when
)

PIPEDRIVE: Final = Profile(
    name="pipedrive",
    token_endpoint="https://oauth.pipedrive.com/oauth/token",  # seen
    authorization_endpoint="https://oauth.pipedrive.com/oauth/authorize",  # seen
    client_authentication="client_secret_basic",  # seen
)

BAMBOOHR: Final = Profile(
    name="bamboohr",
    token_endpoint="https://{subdomain}.bamboohr.com/token.php",  # seen
    authorization_endpoint="https://{subdomain}.bamboohr.com/authorize.php",  # seen
    token_parameters={"request": "token"},  # seen
    authorization_parameters={"request": "authorize"},  # seen
    offline_scope="offline_access",  # seen
)

DEEL: Final = Profile(
    name="deel",
    token_endpoint="https://app.deel.com/oauth2/tokens",  # seen
    authorization_endpoint="https://app.deel.com/oauth2/authorize",  # seen
    client_authentication="client_secret_basic",  # seen
)

FORTNOX: Final = Profile(
    name="fortnox",
    token_endpoint="https://apps.fortnox.se/oauth-v1/token",  # seen
    authorization_endpoint="https://apps.fortnox.se/oauth-v1/auth",  # seen
    client_authentication="client_secret_basic",  # seen
    authorization_parameters={"access_type": "offline"},  # seen
)

TRUSTPILOT: Final = Profile(
    name="trustpilot",
    token_endpoint="https://api.trustpilot.com/v1/oauth/oauth-business-users-for-applications/accesstoken",  # seen
    refresh_endpoint="https://api.trustpilot.com/v1/oauth/oauth-business-users-for-applications/refresh",  # seen
    authorization_endpoint="https://authenticate.trustpilot.com",  # seen
    client_authentication="client_secret_basic",  # seen
)

CALENDLY: Final = Profile(
    name="calendly",
    token_endpoint="https://auth.calendly.com/oauth/token",  # seen
    authorization_endpoint="https://auth.calendly.com/oauth/authorize",  # seen
)
