"""The words in which authorization servers say that something failed, as tables and patterns.

Codes and sentences are matched as lower-case words with one space between (`wording.words_of`), so that
``REFRESH_TOKEN_EXPIRED``, ``RefreshTokenExpired`` and "Refresh token expired" are one.
"""

import re
from typing import Final

CODE_NAMES: Final = (
    "error",
    "errorcode",
    "code",
    "errortype",
    "errcode",
    "err",
    "status",
    "category",
    "type",
    "reason",
    "errorkey",
    "suberror",
    "errorsubtype",
    "errors",
    "name",
)
"""Members whose values are codes, the most telling first."""
SENTENCE_NAMES: Final = (
    "errordescription",
    "message",
    "messages",
    "nonfielderrors",
    "errormessage",
    "errmsg",
    "msg",
    "errorsummary",
    "detail",
    "details",
    "description",
    "faultstring",
    "hint",
    "errorhint",
    "title",
    "developermessage",
    "usermessage",
    "reason",
    "error",
)
"""Members whose values are sentences, the best to show first."""
LIST_NAMES: Final = frozenset({"errors", "fields", "invalidparams", "fielderrors", "validationerrors"})
"""Members that hold one entry a fault; each entry is a sentence of its own."""

PASSING_CODES: Final = frozenset(
    {
        "server",  # server_error, without its suffix
        "temporarily unavailable",
        "slow down",
        "internal",
        "internal server",
        "internal failure",
        "internal service",
        "backend",
        "service unavailable",
        "service temporarily unavailable",
        "service timeout",
        "request timeout",
        "gateway timeout",
        "timeout",
        "unavailable",
        "overloaded",
        "deadline exceeded",
        "resource exhausted",
        "quota exceeded",
        "try again",
        "try again later",
        "retry",
        "retry later",
        "server unavailable",
        "server busy",
        "busy",
        "fatal",
        "transient",
        "temporary",
        "temporary failure",
        "maintenance",
        "concurrent request",
        "concurrent requests",
        "concurrent refresh",
        "concurrency",
        "bad gateway",
        "upstream",
        "dependency failure",
        "system busy",
        "system",
        "maintenance mode",
        "request in progress",
        "already in progress",
    }
)
REFUSED_CODES: Final = frozenset(
    {
        "invalid grant",
        "bad grant",
        "expired grant",
        "revoked grant",
        "interaction required",
        "login required",
        "consent required",
        "account selection required",
        "mfa required",
        "reauth required",
        "reauthentication required",
        "reauthorization required",
        "relogin required",
        "invalid rapt",
        "access revoked",
        "account inactive",
        "account disabled",
        "account deactivated",
        "account deleted",
        "account locked",
        "account suspended",
        "inactive user",
        "user inactive",
        "user disabled",
        "user deactivated",
        "user deleted",
        "user blocked",
        "user suspended",
        "user not found",
        "session not found",
        "session terminated",
        "session invalid",
        "invalid session",
    }
)
TOKEN_CODES: Final = frozenset(
    {
        "invalid token",
        "bad token",
        "token invalid",
        "token not valid",
        "inactive token",
        "token inactive",
        "token already used",
        "token reused",
        "token not found",
        "unknown token",
    }
)
"""Of the refresh token, unless a sentence is about another one."""
MISCONFIGURED_CODES: Final = frozenset(
    {
        "invalid scope",
        "invalid target",
        "unsupported grant type",
        "unauthorized grant type",
        "invalid grant type",
        "redirect uri mismatch",
        "invalid redirect uri",
        "unsupported response type",
        "invalid dpop proof",
        "use dpop nonce",
        "invalid issuer",
    }
)

RATE_LIMIT: Final = re.compile(
    r"\brate limit|\bratelimit|\btoo many (?:\w+ ){0,3}(?:requests|calls)\b|\brate exceeded\b|\bthrottl"
    r"|^limit exceeded\b"
    r"|\b(?:request|api|call|query|usage|quota|daily|hourly) limit (?:(?:has been|was|is) )?(?:exceeded|reached)\b"
    r"|\b(?:over|exceed\w*|reach\w*)(?: \w+){0,4} (?:query limit|quota|quota limit)\b"
    r"|\bquota (?:(?:has been|was|is) )?(?:exceeded|reached|exhausted)\b"
    r"|\b(?:throughput|number of requests) (?:(?:has been|was|is) )?exceeded\b"
)
ABOUT_CLIENT: Final = re.compile(
    r"^(?=.*\b(invalid|bad|incorrect|unknown|wrong|expired|deleted|disabled|suspended|missing|not)\b)"
    r"(?=.*\b(client|app|application|consumer)\b)(?!.*\brefresh token\b)"
)
CLIENT_SECRET: Final = re.compile(
    r"\bclient (id|secret|credentials?|authentication|assertion)\b|\bapp(lication)? (id|secret)\b"
)
CLIENT_AT_FAULT: Final = re.compile(
    r"\b(?:invalid|unknown|disabled|inactive|suspended|deleted|unauthori[sz]ed) (?:oauth )?client\b(?! or\b)"
    r"|\bclient (?:(?:is|was|has been) )?(?:invalid|unknown|disabled|inactive|suspended|deleted|not (?:found|active"
    r"|allowed|enabled|permitted|authori[sz]ed))\b(?!.*\b(?:the|this|that) (?:refresh )?token\b)"
)
OTHER_PARAMETER: Final = re.compile(
    r"\bredirect ur[il]\b|\b(?:invalid|unknown|unsupported) scopes?\b"
    r"|\bscopes? (?:(?:is|are) )?(?:invalid|unknown|unsupported|not (?:allowed|supported))\b"
    r"|\brefresh tokens (?:are )?(?:not (?:enabled|allowed|supported|permitted)|disabled|unsupported)\b"
)
"""Of the request: a login with the same settings meets the same fault."""
_DEAD: Final = (
    r"(?:invalid|expired|revoked|reused?|inactive|consumed|rotated|blacklisted|malformed|stale|rejected|unrecogni[sz]ed"
    r"|superseded|incorrect|nonexistent|deleted|replayed|invalidated|terminated)"
)
_ADJECTIVE: Final = rf"(?:{_DEAD}|bad|unknown|wrong)"
DEAD_REFRESH_TOKEN: Final = re.compile(
    rf"\b{_ADJECTIVE}(?: (?:or|and|the|a|this|your|oauth|access|{_ADJECTIVE})\b)*+ refresh token\b"
    r"|\brefresh token (?:is|was) (?:unknown|bad|wrong)\b"
    r"|\b(?:not|couldn t|can t|cannot|unable to) (?:find|decrypt|verify|validate) (?:(?:the|this) )?refresh token\b"
    r"|\bno such refresh token\b|\brequires an active refresh token\b"
    r"|\brefresh token(?: (?!(?:not|never|t)\b)\w+){0,5}? "
    rf"(?:{_DEAD}|no longer|already used|been used|was used|used already|(?:doesn|don) t exist|isn t (?:valid|active)"
    r"|not (?:found|valid|active|recogni[sz]ed|exist|match|be found|be decrypted)|mismatch)\b"
    r"|^refresh token used$|\bvalue passed for the token was invalid\b"
)
_GRANT: Final = r"(?:token|grant|authori[sz]ation|consent|session)"
OVER: Final = re.compile(
    rf"\b{_GRANT}(?: (?!(?:not|never|t)\b)\w+){{0,8}}? (?:expired|revoked|blacklisted|invalidated)\b"
    rf"|\b(?:expired|revoked|blacklisted|invalidated)(?: \w+)? {_GRANT}\b"
    r"|\b(?:token|session) (?:is |was )?(?:not|no longer) active\b"
)
OTHER_TOKEN: Final = re.compile(
    r"\b(?:access|bearer|csrf|api|id|registration|code|assertion|client|certificate|key|secret|licen[cs]e|app|dpop"
    r"|application|subscription|trial|header|proof|security|developer|partner|software|cookie)\b"
)
AT_FAULT_IS_THE_REQUEST: Final = re.compile(
    r"\b(?:missing|unsupported|grant type|blank|empty|too many|rate limit)\b"
    r"|\brefresh token (?:request|flow|policy|support|endpoint|scope|format|syntax|rotation is)\b"
    r"|\brefresh token grant (?:is |was )?(?:rejected|invalid|incorrect|not)\b"
    r"|\binvalid (?:format|type|length|encoding)\b|\brefresh token s (?:client|app|application)\b"
    r"|\b(?:is|are|token|parameters?|field|value) required\b|\brequired (?:parameter|field|argument)\b"
    r"|\bmust (?:be|have|contain|include|provide|specify|not)\b"
    r"|\bnot (?:supported|allowed|enabled|permitted|issued|provided|authori[sz]ed|present|specified)\b"
    r"|\bclient (?:id|secret|credentials?|authentication)\b"
)
GRANT_TYPE: Final = re.compile(
    r"\bgrant type\b.*\b(?:not|unsupported|invalid|disabled)\b|\b(?:unsupported|invalid|unknown) grant type\b"
)
MISSING_PARAMETER: Final = re.compile(
    r"\bmissing\b.*\b(?:parameter|field)s?\b|\b(?:parameter|field)s?\b.*\b(?:missing|required)\b"
    r"|\btoken is required\b|\bmissing (?:the |a )?refresh token\b"
)
LOGIN_AGAIN: Final = re.compile(
    r"\b(?:log in|login|sign in|authenticate|authori[sz]e) again\b"
    r"|\bre ?(?:authenticat|authori[sz]|login\b)(?!.*\b(?:client|developer)\b)"
)
DEAD_USER: Final = re.compile(
    r"\buser (account )?(is |was |has been )?(inactive|deactivated|disabled|blocked|suspended|deleted|not found)\b"
    r"|\b(inactive|deactivated|disabled|blocked|suspended|deleted) user\b"
    r"|\buser (has |have )?(revoked|withdrawn) (the |their )?(access|consent|authori[sz]ation|permission)\b"
)
NOT_YET: Final = re.compile(
    r"(?<!refresh )\btoken (?:(?:is |has )?(?:still valid|not (?:yet )?expired)|(?:hasn|isn) t (?:yet )?expired)"
    r"|\btoo (?:early|soon)\b|\bmust be at least \d+ \w+ old\b"
)
PASSING: Final = re.compile(
    rf"{RATE_LIMIT.pattern}|\btoo many (?:concurrent requests|attempts)\b"
    r"|\btry again (later|after|in)\b|\bretry (your request|later|after)\b|\btemporarily unavailable\b"
    r"|\b(already|still|currently) being processed\b|\bservice (is )?unavailable\b|\binternal (server )?error\b"
    r"|\btim(?:ed|ing) out\b|\bconcurrent (refresh|request|token)\b|\bin progress\b|\bunder maintenance\b"
    r"|\b(transient|temporary|database|network)(?: (?:server|connection))? (error|failure|failed|problem|issue)\b"
    r"|\bconnection (?:reset|refused)\b|\bsystem error\b|\bbad gateway\b|\btechnical (?:difficult\w+|problem|issue)"
    r"|\b(?:acquire|obtain|get) (?:a |the )?lock\b|\bdeadlock|\block (?:wait )?timeout\b|\boverloaded\b"
    r"|\b(?:unable to|can t|cannot|could not|couldn t) (?:process|complete|handle)(?: \w+){1,4} at this (?:time|moment)"
    r"|\b(server|service|system) (is )?(currently |too )?busy\b|\bsession doesn t have required client\b"
)
HINT_OF_PASSING: Final = re.compile(r"\btry again\b|\bplease retry\b|\btemporary\b|\btransient\b")
"""Of a server in trouble, unless the words ask for a login or name what is dead: then the user should try again."""
ABOUT_USER: Final = re.compile(
    r"\b(?:log|sign) ?in\b|\b(?:re)?(?:authenticat|authori[sz])|\b(?:password|credentials?)\b"
    r"|\b(?:expired|revoked|deleted|disabled|inactive|deactivated|blocked|locked|suspended)\b"
)
"""A fault that a login mends, or an end that no second try undoes."""
TIMED_OUT: Final = re.compile(
    r"^(?!.*\brequest\b).*\b(?:session|login|refresh token) (?:(?:has|is|was|been) ){0,2}timed out\b"
)
"""A grant that ended, and no server that failed to answer."""
