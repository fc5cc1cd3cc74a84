"""Authorization servers that other vendors' apps log in with, and products that run as one."""

from typing import Final

from tokenflight.profiles.base import ErrorRule, Profile, Revocation, Verdict

_DAY: Final = 86_400.0
_MONTH: Final = 30 * _DAY

GOOGLE: Final = Profile(
    name="google",
    issuer="https://accounts.google.com",  # documented
    token_endpoint="https://oauth2.googleapis.com/token",  # documented
    authorization_endpoint="https://accounts.google.com/o/oauth2/v2/auth",  # documented
    device_authorization_endpoint="https://oauth2.googleapis.com/device/code",  # documented
    userinfo_endpoint="https://openidconnect.googleapis.com/v1/userinfo",  # documented
    revocation=Revocation(  # documented: either token will do, and the whole grant ends
        endpoint="https://oauth2.googleapis.com/revoke", authentication="none", ends="grant"
    ),
    client_authentication="client_secret_post",  # seen
    authorization_parameters={"access_type": "offline", "prompt": "consent"},  # documented: else no refresh token
    rotation="never",  # documented
    refresh_token_idle_lifetime=6 * _MONTH,  # documented: seven days only for an app in testing
)

ENTRA: Final = Profile(
    name="entra",
    issuer="https://login.microsoftonline.com/{tenant}/v2.0",  # documented
    token_endpoint="https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",  # documented
    authorization_endpoint="https://login.microsoftonline.com/{tenant}/oauth2/v2.0/authorize",  # documented
    device_authorization_endpoint="https://login.microsoftonline.com/{tenant}/oauth2/v2.0/devicecode",  # documented
    offline_scope="offline_access",  # documented
    rotation="keeps_previous",  # documented: old refresh tokens are not revoked by their use
    refresh_token_idle_lifetime=90 * _DAY,  # documented: 24 hours for a single-page app
)

OKTA: Final = Profile(
    name="okta",
    issuer="https://{domain}",  # documented
    token_endpoint="https://{domain}/oauth2/v1/token",  # documented
    authorization_endpoint="https://{domain}/oauth2/v1/authorize",  # documented
    introspection_endpoint="https://{domain}/oauth2/v1/introspect",  # documented
    userinfo_endpoint="https://{domain}/oauth2/v1/userinfo",  # documented
    revocation=Revocation(endpoint="https://{domain}/oauth2/v1/revoke"),  # documented
    offline_scope="offline_access",  # documented
    rotation="sometimes",  # documented: persistent or rotating, as the app is set
)

AUTH0: Final = Profile(
    name="auth0",
    issuer="https://{domain}/",  # documented: with the slash
    token_endpoint="https://{domain}/oauth/token",  # documented
    authorization_endpoint="https://{domain}/authorize",  # documented
    device_authorization_endpoint="https://{domain}/oauth/device/code",  # documented
    userinfo_endpoint="https://{domain}/userinfo",  # documented
    revocation=Revocation(endpoint="https://{domain}/oauth/revoke"),  # seen
    offline_scope="offline_access",  # documented
    rotation="sometimes",  # documented: a setting, as is how long the previous one works
)

KEYCLOAK: Final = Profile(
    name="keycloak",
    issuer="https://{host}/realms/{realm}",  # documented
    token_endpoint="https://{host}/realms/{realm}/protocol/openid-connect/token",  # documented
    authorization_endpoint="https://{host}/realms/{realm}/protocol/openid-connect/auth",  # documented
    device_authorization_endpoint="https://{host}/realms/{realm}/protocol/openid-connect/auth/device",  # documented
    introspection_endpoint="https://{host}/realms/{realm}/protocol/openid-connect/token/introspect",  # documented
    userinfo_endpoint="https://{host}/realms/{realm}/protocol/openid-connect/userinfo",  # documented
    revocation=Revocation(endpoint="https://{host}/realms/{realm}/protocol/openid-connect/revoke"),  # documented
    offline_scope="offline_access",  # documented
    rotation="sometimes",  # seen: a setting of the realm
    error_rules=(ErrorRule(Verdict.PASSING, words="session doesn't have required client"),),  # seen: a race
)

APPLE: Final = Profile(
    name="apple",
    issuer="https://appleid.apple.com",  # seen
    token_endpoint="https://appleid.apple.com/auth/token",  # seen
    authorization_endpoint="https://appleid.apple.com/auth/authorize",  # seen
    revocation=Revocation(endpoint="https://appleid.apple.com/auth/revoke"),  # seen
    client_authentication="client_secret_post",  # seen: the secret is a JWT that the app signs
)

GITLAB: Final = Profile(
    name="gitlab",
    issuer="https://{host}",  # seen: gitlab.com, or one's own
    token_endpoint="https://{host}/oauth/token",  # seen
    authorization_endpoint="https://{host}/oauth/authorize",  # seen
)
