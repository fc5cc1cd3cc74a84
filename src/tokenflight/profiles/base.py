"""What a profile can say: how one vendor's authorization server departs from the RFCs, as data.

The code that builds requests and reads replies asks the profile, and never which vendor it is. Where data can't say
what a vendor does, the profile carries a small function, `Profile.read_reply` or `Profile.classify`, that stands beside
the vendor's data.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

from tokenflight._checks import checked_seconds, require_kind, require_text
from tokenflight.errors import ConfigurationError

ClientAuthenticationMethod = Literal[
    "none", "client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", "tls_client_auth"
]
"""How a client authenticates at the token endpoint, by its registered name (OpenID Connect Core §9, RFC 8705)."""

RequestFormat = Literal["form", "json", "query"]
"""Where the parameters of a request go: a form or a JSON object in the body of a POST, or the query of a GET."""

Rotation = Literal["never", "always", "sometimes", "keeps_previous"]
"""What a renewal does to the refresh token.

``never``: the same one stays in use. ``always``: each may be used once. ``sometimes``: a reply may hold a new one,
after which the old one is spent. ``keeps_previous``: a reply holds a new one, and the old one works on.
"""

Credential = Literal["refresh_token", "access_token"]
"""Which token of a grant is sent."""

_VARIABLE: Final = re.compile(r"\{([a-z_]+)\}")
_VARIABLE_VALUE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_ENDPOINTS: Final = (
    "issuer",
    "token_endpoint",
    "refresh_endpoint",
    "authorization_endpoint",
    "device_authorization_endpoint",
    "introspection_endpoint",
    "userinfo_endpoint",
)
_MAPPINGS: Final = (
    "token_request_headers",
    "token_parameters",
    "login_parameters",
    "refresh_parameters",
    "authorization_parameters",
)
_TEXTS: Final = frozenset(
    {"name", "client_id_parameter", "refresh_parameter", "scope_separator", "access_token_header"}
)
_NEVER_NONE: Final = _TEXTS | {
    "grace",
    "request_format",
    "refresh_credential",
    "omitted_refresh_parameters",
    "tokens_at",
    "error_rules",
}


class Verdict(Enum):
    """What a reply that holds no tokens means for the caller."""

    REFUSED = "refused"
    """The refresh token is dead: the user must log in again."""
    PASSING = "passing"
    """The trouble will pass: try later."""
    RATE_LIMITED = "rate_limited"
    """The client asks too often: no user of this provider is renewed until the pause is over."""
    MISCONFIGURED = "misconfigured"
    """The client, its settings or the request is wrong: neither a login nor waiting helps."""
    NOT_YET = "not_yet"
    """It is too early to renew: the present access token still serves."""
    UNKNOWN = "unknown"
    """The reply does not say what failed."""


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """A reply that holds no tokens, as a rule or a vendor's function sees it.

    `codes` are the machine-readable words in lower case, the most telling first. `words` are the sentences in lower
    case. `headers` have names in lower case; `members` is the decoded body, empty where it is no object.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    members: Mapping[str, object] = field(repr=False)
    codes: tuple[str, ...] = field(default=(), repr=False)
    words: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """A reply with this `status`, this `error` code and these `words` means `verdict`; None leaves a condition out.

    `error` must equal one of the codes, and `words` must occur in the sentences, both in any case.
    """

    verdict: Verdict
    status: int | None = None
    error: str | None = None
    words: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.verdict, Verdict):
            raise ConfigurationError(f"verdict must be a Verdict, not a {type(self.verdict).__name__}")
        if self.status is None and self.error is None and self.words is None:
            raise ConfigurationError("an ErrorRule needs a status, an error or words: without any it matches all")
        for name in ("error", "words"):
            if getattr(self, name) is not None:
                require_text(name, getattr(self, name))
        if isinstance(self.status, bool) or not isinstance(self.status, int | None):
            raise ConfigurationError(f"status must be a number, not a {type(self.status).__name__}")

    def matches(self, reply: ErrorReply) -> bool:
        """Whether `reply` is one that this rule is about."""
        return (
            (self.status is None or self.status == reply.status)
            and (self.error is None or self.error.lower() in reply.codes)
            and (self.words is None or self.words.lower() in reply.words)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """How to tell a vendor that a grant is over (RFC 7009, or the vendor's own way).

    `parameter` carries the token. `authentication` is what the request proves itself with: the client's credentials,
    the access token in the ``Authorization`` header, or nothing. `ends` is what becomes invalid: the token together
    with all that was issued from it, or the whole grant of this user to this app.
    """

    endpoint: str
    method: Literal["POST", "DELETE"] = "POST"
    request_format: Literal["form", "json"] = "form"
    parameter: str = "token"
    credential: Credential = "refresh_token"
    authentication: Literal["client", "access_token", "none"] = "client"
    ends: Literal["token", "grant"] = "token"

    def __post_init__(self) -> None:
        _require_template("endpoint", self.endpoint)
        require_text("parameter", self.parameter)
        _one_of(("POST", "DELETE"))("method", self.method)
        _one_of(("form", "json"))("request_format", self.request_format)
        _one_of(get_args(Credential))("credential", self.credential)
        _one_of(("client", "access_token", "none"))("authentication", self.authentication)
        _one_of(("token", "grant"))("ends", self.ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How a vendor departs from RFC 6749 and its companions. A member that is not set means what they say.

    Make your own profile with `dataclasses.replace`. Endpoints are URLs, or templates with ``{names}`` that `at` fills
    in; ``{client_id}`` stands for the client's own id. All times are in seconds. Raises `ConfigurationError` for a
    template that makes no URL and for a value out of its range.
    """

    name: str

    # Endpoints (RFC 8414 §2)
    issuer: str | None = None
    token_endpoint: str | None = None
    refresh_endpoint: str | None = None
    """Where refresh requests go, if not to the token endpoint."""
    authorization_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    introspection_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    revocation: Revocation | None = None

    # Requests
    client_authentication: ClientAuthenticationMethod | None = None
    """The method to choose, None where any registered one will do."""
    client_id_parameter: str = "client_id"
    request_format: Literal["form", "json"] = "form"
    """Where the parameters of a token request go."""
    token_request_headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    token_parameters: Mapping[str, str] = field(default_factory=dict, hash=False)
    """More parameters of every token request."""
    login_parameters: Mapping[str, str] = field(default_factory=dict, hash=False)
    """More parameters of the request that exchanges an authorization code."""
    refresh_format: RequestFormat | None = None
    """Where the parameters of a refresh request go, if not where `request_format` says."""
    refresh_credential: Credential = "refresh_token"
    """Which token a renewal sends; a vendor without refresh tokens exchanges the access token itself."""
    refresh_parameter: str = "refresh_token"
    """The parameter that carries it."""
    refresh_parameters: Mapping[str, str] = field(default_factory=dict, hash=False)
    """More parameters of a refresh request; ``grant_type`` among them replaces the usual one."""
    omitted_refresh_parameters: frozenset[str] = frozenset()
    authorization_parameters: Mapping[str, str] = field(default_factory=dict, hash=False)
    offline_scope: str | None = None
    """What to ask for at the login so that a refresh token comes."""
    scope_separator: str = " "

    # Replies
    tokens_at: tuple[str, ...] = ()
    """The path from the top of a reply to the object that holds the tokens."""
    read_reply: Callable[[Mapping[str, object]], Mapping[str, object]] | None = None
    """Returns the object that holds the tokens, if no path leads to it."""
    assumed_lifetime: float | None = None
    """Life of an access token where the reply tells none."""
    earliest_renewal: float | None = None
    """The vendor renews only in these last seconds of an access token's life. None: at any time."""

    # Refresh tokens
    rotation: Rotation | None = None
    """None where the vendor leaves it to the app's or the tenant's settings."""
    grace: float = 0.0
    """For this long after its use, the vendor accepts a refresh token again and sends a working reply."""
    refresh_token_idle_lifetime: float | None = None
    """A refresh token dies when unused for this long."""
    refresh_token_lifetime: float | None = None
    """A grant ends this long after the login, however often it is renewed."""
    keeps_login_refresh_token: bool = False
    """A renewal's reply may hold another refresh token, which must not replace the one from the login."""

    # The API
    access_token_header: str = "Authorization"  # noqa: S105 - the name of a header
    access_token_scheme: str | None = "Bearer"  # noqa: S105 - the name of a scheme
    """The word before the access token in that header; None sends the token alone."""

    # Errors
    error_rules: tuple[ErrorRule, ...] = ()
    """The first rule that matches decides, before the rules for all vendors."""
    classify: Callable[[ErrorReply], Verdict | None] | None = None
    """Called if no rule matches. It returns None to leave the reply to the rules for all vendors."""

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not None or name in _NEVER_NONE:
                check(name, value)
        for name in _MAPPINGS:
            # A copy, so that a later change of the caller's dict changes no profile.
            object.__setattr__(self, name, _checked_texts(name, getattr(self, name)))
        if self.tokens_at and self.read_reply is not None:
            raise ConfigurationError("tokens_at and read_reply both say where the tokens are: give one of them")

    @property
    def variables(self) -> frozenset[str]:
        """The names in the endpoints that `at` has to fill in."""
        urls = [getattr(self, name) or "" for name in _ENDPOINTS]
        if self.revocation is not None:
            urls.append(self.revocation.endpoint)
        return frozenset(_VARIABLE.findall(" ".join(urls))) - {"client_id"}

    def at(self, **values: str) -> "Profile":
        """Return this profile for one tenant, region or shop, with each ``{name}`` in its endpoints replaced.

        A value becomes a part of a host or a path, so it may consist of letters, digits, dots, dashes and underscores.
        Raises `ConfigurationError` for another character, and unless `values` are exactly the `variables`.
        """
        if values.keys() != self.variables:
            expected = ", ".join(sorted(self.variables)) or "nothing"
            raise ConfigurationError(f"the profile {self.name} wants {expected}, not {', '.join(sorted(values))}")
        for name, value in values.items():
            if not isinstance(value, str) or not _VARIABLE_VALUE.fullmatch(value):
                raise ConfigurationError(f"{name} must be letters, digits, dots, dashes and underscores")

        def filled(template: str) -> str:
            return _VARIABLE.sub(lambda found: values.get(found[1], found[0]), template)

        urls: dict[str, Any] = {name: filled(url) for name in _ENDPOINTS if (url := getattr(self, name)) is not None}
        revocation = self.revocation and replace(self.revocation, endpoint=filled(self.revocation.endpoint))
        return replace(self, **urls, revocation=revocation)

    def may_resend(self, seconds_since_sent: float) -> bool:
        """Whether sending a refresh token again is safe, so many seconds after a request whose reply was lost."""
        return self.rotation in {"never", "keeps_previous"} or seconds_since_sent < self.grace


def _one_of(choices: tuple[str, ...]) -> Callable[[str, object], None]:
    def check(name: str, value: object) -> None:
        if value not in choices:
            raise ConfigurationError(f"{name} must be one of {', '.join(choices)}, not {value!r:.40}")

    return check


def _all_of(container: type[tuple[object, ...]] | type[frozenset[object]], kind: type) -> Callable[[str, object], None]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, container) or not all(isinstance(item, kind) for item in value):
            raise ConfigurationError(f"{name} must be a {container.__name__} of {kind.__name__} only")

    return check


def _require_template(name: str, url: object) -> None:
    """Raise unless `url` is an absolute URL once its ``{names}`` are filled in. The sender checks that it is https."""
    require_text(name, url)
    filled = _VARIABLE.sub("x", str(url))
    try:
        parts = urlsplit(filled)
        usable = parts.scheme in {"https", "http"} and bool(parts.hostname) and parts.username is None
        usable = usable and not parts.fragment and re.search(r"[{}\x00-\x20\x7f]", filled) is None
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(f"{name} must be an absolute URL, with {{names}} in it if need be, not {url!r:.80}")


def _require_function(name: str, value: object) -> None:
    if not callable(value):
        raise ConfigurationError(f"{name} must be a function, not a {type(value).__name__}")


def _require_seconds(name: str, value: Any) -> None:
    checked_seconds(name, value)


def _checked_texts(name: str, texts: object) -> dict[str, str]:
    if not isinstance(texts, Mapping) or not all(
        isinstance(text, str) and text for item in texts.items() for text in item
    ):
        raise ConfigurationError(f"{name} must map non-empty strings to non-empty strings")
    return dict(texts)


_CHECKS: Final[Mapping[str, Callable[[str, object], None]]] = {
    **dict.fromkeys(_ENDPOINTS, _require_template),
    **dict.fromkeys(_TEXTS | {"offline_scope", "access_token_scheme"}, require_text),
    **dict.fromkeys(
        ("assumed_lifetime", "earliest_renewal", "grace", "refresh_token_idle_lifetime", "refresh_token_lifetime"),
        _require_seconds,
    ),
    "client_authentication": _one_of(get_args(ClientAuthenticationMethod)),
    "request_format": _one_of(("form", "json")),
    "refresh_format": _one_of(get_args(RequestFormat)),
    "refresh_credential": _one_of(get_args(Credential)),
    "rotation": _one_of(get_args(Rotation)),
    "omitted_refresh_parameters": _all_of(frozenset, str),
    "tokens_at": _all_of(tuple, str),
    "error_rules": _all_of(tuple, ErrorRule),
    "revocation": lambda name, value: require_kind(name, value, Revocation),
    "read_reply": _require_function,
    "classify": _require_function,
}

STANDARD: Final = Profile(name="standard")
"""As the RFCs say: the profile of a vendor that none was named for."""
