"""Where people work together: messages, documents, code, files, meetings."""

from collections.abc import Mapping
from typing import Final

from tokenflight.profiles.base import ErrorRule, Profile, Revocation, Verdict

_DAY: Final = 86_400.0

_SLACK_RULES: Final = (
    ErrorRule(Verdict.REFUSED, error="invalid_refresh_token"),  # seen
    ErrorRule(Verdict.REFUSED, error="token_revoked"),  # documented
    ErrorRule(Verdict.REFUSED, error="token_expired"),  # documented
    ErrorRule(Verdict.REFUSED, error="account_inactive"),  # documented
    ErrorRule(Verdict.PASSING, error="ratelimited"),  # documented
    ErrorRule(Verdict.PASSING, error="team_added_to_org"),  # documented: while a workspace migrates
    ErrorRule(Verdict.PASSING, error="request_timeout"),  # documented
    ErrorRule(Verdict.PASSING, error="service_unavailable"),  # documented
    ErrorRule(Verdict.PASSING, error="internal_error"),  # documented
    ErrorRule(Verdict.PASSING, error="fatal_error"),  # documented
)

SLACK: Final = Profile(
    name="slack",
    token_endpoint="https://slack.com/api/oauth.v2.access",  # documented
    authorization_endpoint="https://slack.com/oauth/v2/authorize",  # documented
    revocation=Revocation(  # documented: the app stays installed
        endpoint="https://slack.com/api/auth.revoke", credential="access_token", authentication="none"
    ),
    client_authentication="client_secret_post",  # seen
    scope_separator=",",  # documented
    rotation="always",  # documented: with token rotation switched on, single use
    error_rules=_SLACK_RULES,  # documented, and the refresh token's own code seen
)


def _slack_user_tokens(members: Mapping[str, object]) -> Mapping[str, object]:
    """A login's reply holds the user's tokens beside the bot's; a renewal's holds them alone, at the top."""
    user = members.get("authed_user")
    if isinstance(user, Mapping) and "access_token" in user:
        return user
    return {} if members.get("token_type") == "bot" else members


SLACK_USER: Final = Profile(
    name="slack_user",
    token_endpoint="https://slack.com/api/oauth.v2.access",  # documented
    authorization_endpoint="https://slack.com/oauth/v2/authorize",  # documented
    revocation=Revocation(  # documented
        endpoint="https://slack.com/api/auth.revoke", credential="access_token", authentication="none"
    ),
    client_authentication="client_secret_post",  # seen
    scope_separator=",",  # documented
    read_reply=_slack_user_tokens,  # documented
    rotation="always",  # documented
    error_rules=_SLACK_RULES,  # documented, and the refresh token's own code seen
)

GITHUB: Final = Profile(
    name="github",
    token_endpoint="https://github.com/login/oauth/access_token",  # documented
    authorization_endpoint="https://github.com/login/oauth/authorize",  # documented
    device_authorization_endpoint="https://github.com/login/device/code",  # documented
    revocation=Revocation(  # documented
        endpoint="https://api.github.com/applications/{client_id}/grant",
        method="DELETE",
        request_format="json",
        parameter="access_token",
        credential="access_token",
        ends="grant",
    ),
    client_authentication="client_secret_post",  # documented
    rotation="always",  # documented: the old refresh token and the old access token die at once
    refresh_token_idle_lifetime=15_811_200.0,  # documented
    error_rules=(  # documented
        ErrorRule(Verdict.REFUSED, error="bad_refresh_token"),
        ErrorRule(Verdict.MISCONFIGURED, error="incorrect_client_credentials"),
    ),
)

BITBUCKET: Final = Profile(
    name="bitbucket",
    token_endpoint="https://bitbucket.org/site/oauth2/access_token",  # seen
    authorization_endpoint="https://bitbucket.org/site/oauth2/authorize",  # seen
)

ATLASSIAN: Final = Profile(
    name="atlassian",
    token_endpoint="https://auth.atlassian.com/oauth/token",  # documented
    authorization_endpoint="https://auth.atlassian.com/authorize",  # documented
    client_authentication="client_secret_post",  # documented
    request_format="json",  # documented
    authorization_parameters={"audience": "api.atlassian.com", "prompt": "consent"},  # documented
    offline_scope="offline_access",  # documented
    rotation="always",  # documented
    refresh_token_idle_lifetime=90 * _DAY,  # documented
    refresh_token_lifetime=365 * _DAY,  # documented
    error_rules=(  # documented: with status 403, as is invalid_grant
        ErrorRule(Verdict.REFUSED, error="unauthorized_client", words="refresh_token is invalid"),
    ),
)

NOTION: Final = Profile(
    name="notion",
    token_endpoint="https://api.notion.com/v1/oauth/token",  # documented
    authorization_endpoint="https://api.notion.com/v1/oauth/authorize",  # documented
    revocation=Revocation(  # documented: the workspace's consent stays
        endpoint="https://api.notion.com/v1/oauth/revoke", request_format="json", credential="access_token"
    ),
    client_authentication="client_secret_basic",  # documented
    request_format="json",  # documented
    authorization_parameters={"owner": "user"},  # documented
)

LINEAR: Final = Profile(
    name="linear",
    token_endpoint="https://api.linear.app/oauth/token",  # documented
    authorization_endpoint="https://linear.app/oauth/authorize",  # documented
    revocation=Revocation(endpoint="https://api.linear.app/oauth/revoke"),  # seen
    scope_separator=",",  # documented
    rotation="always",  # seen
)

AIRTABLE: Final = Profile(
    name="airtable",
    token_endpoint="https://airtable.com/oauth2/v1/token",  # seen
    authorization_endpoint="https://airtable.com/oauth2/v1/authorize",  # seen
    client_authentication="client_secret_basic",  # seen
    rotation="always",  # seen
)

FIGMA: Final = Profile(
    name="figma",
    token_endpoint="https://api.figma.com/v1/oauth/token",  # seen
    refresh_endpoint="https://api.figma.com/v1/oauth/refresh",  # seen
    authorization_endpoint="https://www.figma.com/oauth",  # seen
    client_authentication="client_secret_basic",  # seen
    omitted_refresh_parameters=frozenset({"grant_type"}),  # seen
    scope_separator=",",  # seen
    rotation="never",  # seen
)

ZOOM: Final = Profile(
    name="zoom",
    token_endpoint="https://zoom.us/oauth/token",  # documented
    authorization_endpoint="https://zoom.us/oauth/authorize",  # documented
    revocation=Revocation(endpoint="https://zoom.us/oauth/revoke"),  # seen
    client_authentication="client_secret_basic",  # documented
    rotation="always",  # documented
    refresh_token_idle_lifetime=90 * _DAY,  # documented: about that
)

DROPBOX: Final = Profile(
    name="dropbox",
    token_endpoint="https://api.dropboxapi.com/oauth2/token",  # documented
    authorization_endpoint="https://www.dropbox.com/oauth2/authorize",  # documented
    revocation=Revocation(  # documented: asked with the access token, and what it was issued from ends with it
        endpoint="https://api.dropboxapi.com/2/auth/token/revoke",
        request_format="json",
        credential="access_token",
        authentication="access_token",
    ),
    authorization_parameters={"token_access_type": "offline"},  # documented
    rotation="never",  # documented
)

BOX: Final = Profile(
    name="box",
    token_endpoint="https://api.box.com/oauth2/token",  # documented
    authorization_endpoint="https://account.box.com/api/oauth2/authorize",  # documented
    revocation=Revocation(endpoint="https://api.box.com/oauth2/revoke"),  # seen
    client_authentication="client_secret_post",  # documented
    rotation="always",  # documented
    refresh_token_idle_lifetime=60 * _DAY,  # documented
)

DROPBOX_SIGN: Final = Profile(
    name="dropbox_sign",
    token_endpoint="https://app.hellosign.com/oauth/token",  # seen
    refresh_endpoint="https://app.hellosign.com/oauth/token?refresh",  # seen
    authorization_endpoint="https://app.hellosign.com/oauth/authorize",  # seen
)

ADOBE_SIGN: Final = Profile(
    name="adobe_sign",
    token_endpoint="https://api.{shard}.adobesign.com/oauth/v2/token",  # documented
    refresh_endpoint="https://api.{shard}.adobesign.com/oauth/v2/refresh",  # documented
    client_authentication="client_secret_post",  # documented
    assumed_lifetime=3600.0,  # documented
    rotation="never",  # documented
    refresh_token_idle_lifetime=60 * _DAY,  # documented
)

DOCUSIGN: Final = Profile(
    name="docusign",
    token_endpoint="https://account.docusign.com/oauth/token",  # seen
    authorization_endpoint="https://account.docusign.com/oauth/auth",  # seen
    client_authentication="client_secret_basic",  # seen
)

MIRO: Final = Profile(
    name="miro",
    token_endpoint="https://api.miro.com/v1/oauth/token",  # documented
    authorization_endpoint="https://miro.com/oauth/authorize",  # seen
    client_authentication="client_secret_post",  # documented
    rotation="always",  # documented
    refresh_token_idle_lifetime=60 * _DAY,  # documented
)

CANVA: Final = Profile(
    name="canva",
    token_endpoint="https://api.canva.com/rest/v1/oauth/token",  # seen
    authorization_endpoint="https://www.canva.com/api/oauth/authorize",  # seen
    client_authentication="client_secret_basic",  # seen
)

HEYGEN: Final = Profile(
    name="heygen",
    token_endpoint="https://api2.heygen.com/v1/oauth/token",  # seen
    refresh_endpoint="https://api2.heygen.com/v1/oauth/refresh_token",  # seen
    authorization_endpoint="https://app.heygen.com/oauth/authorize",  # seen
)

ASANA: Final = Profile(
    name="asana",
    token_endpoint="https://app.asana.com/-/oauth_token",  # seen
    authorization_endpoint="https://app.asana.com/-/oauth_authorize",  # seen
)

SNOWFLAKE: Final = Profile(
    name="snowflake",
    token_endpoint="https://{account}.snowflakecomputing.com/oauth/token-request",  # seen
    authorization_endpoint="https://{account}.snowflakecomputing.com/oauth/authorize",  # seen
    client_authentication="client_secret_basic",  # seen
)
