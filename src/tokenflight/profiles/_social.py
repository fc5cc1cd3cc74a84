"""Social networks, video, and what people wear."""

from typing import Final

from tokenflight.profiles.base import ErrorReply, ErrorRule, Profile, Revocation, Verdict

_DAY: Final = 86_400.0


_GRAPH_VERDICTS: Final = {
    **dict.fromkeys(("1", "2"), Verdict.PASSING),  # unknown trouble, and an outage
    **dict.fromkeys(("4", "17", "32", "341", "613"), Verdict.RATE_LIMITED),
    **dict.fromkeys(map(str, range(80_000, 80_015)), Verdict.RATE_LIMITED),  # of business use cases
    **dict.fromkeys(("102", "190"), Verdict.REFUSED),
}


def _classify_graph_error(reply: ErrorReply) -> Verdict | None:
    """The Graph API tells a limit and a dead token by a number, and passing trouble also by a flag, inside `error`."""
    error = reply.members.get("error")
    if not isinstance(error, dict):
        return None
    verdict = _GRAPH_VERDICTS.get(str(error.get("code")))
    return Verdict.PASSING if verdict is None and error.get("is_transient") is True else verdict


FACEBOOK: Final = Profile(
    name="facebook",
    token_endpoint="https://graph.facebook.com/v22.0/oauth/access_token",  # seen
    authorization_endpoint="https://www.facebook.com/v22.0/dialog/oauth",  # seen
    client_authentication="client_secret_post",  # documented
    refresh_format="query",  # documented
    refresh_credential="access_token",  # documented: there is no refresh token
    refresh_parameter="fb_exchange_token",  # documented
    refresh_parameters={"grant_type": "fb_exchange_token"},  # documented
    scope_separator=",",  # documented
    assumed_lifetime=60 * _DAY,  # documented
    classify=_classify_graph_error,  # documented
)

INSTAGRAM: Final = Profile(
    name="instagram",
    token_endpoint="https://api.instagram.com/oauth/access_token",  # documented
    refresh_endpoint="https://graph.instagram.com/refresh_access_token",  # documented
    authorization_endpoint="https://www.instagram.com/oauth/authorize",  # documented
    client_authentication="client_secret_post",  # documented
    refresh_format="query",  # documented
    refresh_credential="access_token",  # documented
    refresh_parameter="access_token",  # documented
    refresh_parameters={"grant_type": "ig_refresh_token"},  # documented
    omitted_refresh_parameters=frozenset({"client_id", "client_secret"}),  # documented
    scope_separator=",",  # documented
    assumed_lifetime=60 * _DAY,  # documented
    classify=_classify_graph_error,  # documented
)

THREADS: Final = Profile(
    name="threads",
    token_endpoint="https://graph.threads.net/oauth/access_token",  # seen
    refresh_endpoint="https://graph.threads.net/refresh_access_token",  # seen
    authorization_endpoint="https://threads.net/oauth/authorize",  # seen
    client_authentication="client_secret_post",  # seen
    refresh_format="query",  # seen
    refresh_credential="access_token",  # seen
    refresh_parameter="access_token",  # seen
    refresh_parameters={"grant_type": "th_refresh_token"},  # seen
    omitted_refresh_parameters=frozenset({"client_id", "client_secret"}),  # seen
    scope_separator=",",  # seen
    assumed_lifetime=60 * _DAY,  # seen
    classify=_classify_graph_error,  # seen
)

TIKTOK: Final = Profile(
    name="tiktok",
    token_endpoint="https://open.tiktokapis.com/v2/oauth/token/",  # documented
    authorization_endpoint="https://www.tiktok.com/v2/auth/authorize/",  # documented
    revocation=Revocation(  # documented
        endpoint="https://open.tiktokapis.com/v2/oauth/revoke/", credential="access_token"
    ),
    client_authentication="client_secret_post",  # documented
    client_id_parameter="client_key",  # documented
    scope_separator=",",  # documented
    rotation="sometimes",  # documented
)

X: Final = Profile(
    name="x",
    token_endpoint="https://api.twitter.com/2/oauth2/token",  # seen
    authorization_endpoint="https://x.com/i/oauth2/authorize",  # seen
    revocation=Revocation(endpoint="https://api.twitter.com/2/oauth2/revoke"),  # seen
    client_authentication="client_secret_basic",  # seen: of confidential clients
    offline_scope="offline.access",  # seen
    rotation="always",  # seen
    error_rules=(  # seen
        ErrorRule(Verdict.REFUSED, error="invalid_request", words="value passed for the token was invalid"),
    ),
)

REDDIT: Final = Profile(
    name="reddit",
    token_endpoint="https://www.reddit.com/api/v1/access_token",  # seen: wants a User-Agent that names the app
    authorization_endpoint="https://www.reddit.com/api/v1/authorize",  # seen
    revocation=Revocation(endpoint="https://www.reddit.com/api/v1/revoke_token"),  # seen
    client_authentication="client_secret_basic",  # seen
    authorization_parameters={"duration": "permanent"},  # seen
)

LINKEDIN: Final = Profile(
    name="linkedin",
    token_endpoint="https://www.linkedin.com/oauth/v2/accessToken",  # documented
    authorization_endpoint="https://www.linkedin.com/oauth/v2/authorization",  # documented
    client_authentication="client_secret_post",  # documented
    refresh_token_lifetime=365 * _DAY,  # documented: a renewal does not prolong it
)

DISCORD: Final = Profile(
    name="discord",
    token_endpoint="https://discord.com/api/oauth2/token",  # documented
    authorization_endpoint="https://discord.com/api/oauth2/authorize",  # documented
    revocation=Revocation(  # documented: whichever token is sent, the authorization ends
        endpoint="https://discord.com/api/oauth2/token/revoke", ends="grant"
    ),
    rotation="always",  # seen
)

TWITCH: Final = Profile(
    name="twitch",
    token_endpoint="https://id.twitch.tv/oauth2/token",  # documented
    authorization_endpoint="https://id.twitch.tv/oauth2/authorize",  # documented
    revocation=Revocation(  # seen
        endpoint="https://id.twitch.tv/oauth2/revoke", credential="access_token", authentication="client"
    ),
    client_authentication="client_secret_post",  # documented
)

PINTEREST: Final = Profile(
    name="pinterest",
    token_endpoint="https://api.pinterest.com/v5/oauth/token",  # seen
    authorization_endpoint="https://www.pinterest.com/oauth",  # seen
    client_authentication="client_secret_basic",  # seen
)

SPOTIFY: Final = Profile(
    name="spotify",
    token_endpoint="https://accounts.spotify.com/api/token",  # seen
    authorization_endpoint="https://accounts.spotify.com/authorize",  # seen
)

STRAVA: Final = Profile(
    name="strava",
    token_endpoint="https://www.strava.com/api/v3/oauth/token",  # seen
    authorization_endpoint="https://www.strava.com/oauth/authorize",  # seen
    revocation=Revocation(  # seen
        endpoint="https://www.strava.com/oauth/deauthorize",
        parameter="access_token",
        credential="access_token",
        authentication="none",
        ends="grant",
    ),
    client_authentication="client_secret_post",  # seen
    scope_separator=",",  # seen
    rotation="sometimes",  # seen
)

FITBIT: Final = Profile(
    name="fitbit",
    token_endpoint="https://api.fitbit.com/oauth2/token",  # seen
    authorization_endpoint="https://www.fitbit.com/oauth2/authorize",  # seen
    revocation=Revocation(endpoint="https://api.fitbit.com/oauth2/revoke"),  # seen
    client_authentication="client_secret_basic",  # seen
    rotation="always",  # seen
)


def _classify_withings(reply: ErrorReply) -> Verdict | None:
    """Withings answers 200 always; its own `status` is the verdict, and 503 there means wrong parameters."""
    if reply.members.get("status") == 601:  # noqa: PLR2004 - their number
        return Verdict.RATE_LIMITED
    if reply.members.get("status") in {522, 524}:
        return Verdict.PASSING  # a time-out
    words = reply.words.replace("_", " ")
    if "refresh token" in words and "invalid" in words and "missing" not in words:
        return Verdict.REFUSED
    return Verdict.MISCONFIGURED if reply.members.get("status") == 503 else None  # noqa: PLR2004 - their number


WITHINGS: Final = Profile(
    name="withings",
    token_endpoint="https://wbsapi.withings.net/v2/oauth2",  # seen
    authorization_endpoint="https://account.withings.com/oauth2_user/authorize2",  # seen
    client_authentication="client_secret_post",  # seen
    token_parameters={"action": "requesttoken"},  # seen
    scope_separator=",",  # seen
    tokens_at=("body",),  # seen
    rotation="always",  # seen
    classify=_classify_withings,  # seen
)
