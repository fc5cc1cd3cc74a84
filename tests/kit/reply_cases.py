"""Token endpoint replies kept as data: the bytes that a case stands for, and what reading them came to."""

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from tokenflight import profiles
from tokenflight.profiles import Profile, Verdict
from tokenflight.providers._replies.classification import Failure
from tokenflight.providers._replies.reading import Reading, Tokens, Unusable, read_token_reply
from tokenflight.tokens import TokenSet

NOW: Final = 1_800_000_000.0
SENT_REFRESH_TOKEN: Final = "rt-0"
CASES_FILE: Final = Path(__file__).parents[1] / "cases" / "token_replies.json"

_CHAPTERS: Final = {
    "tokens": "V1",
    "tokens_or_invalid_but_kept": "V1",
    "invalid_but_kept": "V1",
    "login_again": "V2",
    "misconfigured": "V2",
    "not_yet": "V9",
}

_OUTCOMES: Final = {
    Verdict.REFUSED: "login_again",
    Verdict.PASSING: "try_later",
    Verdict.MISCONFIGURED: "misconfigured",
    Verdict.NOT_YET: "not_yet",
    Verdict.UNKNOWN: "unknown",
}
_BYTES: Final[dict[str, Callable[[Any], bytes]]] = {
    "text": lambda value: value.encode(),
    "form_of": lambda value: urlencode(value).encode(),
    "gzip_of": lambda value: gzip.compress(json.dumps(value).encode()),
    "deflate_of": lambda value: zlib.compress(json.dumps(value).encode()),
    "latin1_of": lambda value: json.dumps(value, ensure_ascii=False).encode("latin-1"),
    "utf8_bom_before": lambda value: b"\xef\xbb\xbf" + json.dumps(value).encode(),
}


@dataclass(frozen=True)
class ReplyCase:
    """One reply and what has to come of it."""

    name: str
    profile: Profile
    status: int
    headers: dict[str, str]
    body: bytes
    outcome: str
    want: dict[str, Any]

    @property
    def id(self) -> str:
        """The name, after the row of the failure catalogue that the case belongs to."""
        chapter = _CHAPTERS.get(self.outcome) or ("V6" if self.status == 429 else "V3")
        return f"{chapter}: {self.name}"

    def read(self) -> Reading:
        """Read the reply as the one to a refresh that sent `SENT_REFRESH_TOKEN`."""
        return read_token_reply(
            self.status, self.headers, self.body, now=NOW, profile=self.profile, secrets=[SENT_REFRESH_TOKEN]
        )


def load_cases(path: Path) -> list[ReplyCase]:
    """The cases in a file; times in them that are told from now on are filled in."""
    return [
        ReplyCase(
            name=case["name"],
            profile=profiles.get(case["profile"]) if case["profile"] else profiles.STANDARD,
            status=case["status"],
            headers=_with_times(case.get("headers", {})),
            body=_body_of(case),
            outcome=case["outcome"],
            want=case.get("want", {}),
        )
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]
    ]


def check(case: ReplyCase) -> None:
    """Fail unless the reply of `case` comes to what it says."""
    reading = case.read()
    outcome = outcome_of(reading)
    assert outcome == case.outcome or (outcome in case.outcome.split("_or_")), reading
    match reading:
        case Tokens(members):
            check_tokens(TokenSet.from_response(members, received_at=NOW), case.want)
        case Unusable(_, refresh_token):
            assert refresh_token == case.want.get("refresh_token")
        case Failure():
            _check_failure(reading, case.want)


def outcome_of(reading: Reading) -> str:
    """The outcome of a reading, in the words of the cases."""
    match reading:
        case Tokens():
            return "tokens"
        case Unusable(_, refresh_token):
            return "invalid" if refresh_token is None else "invalid_but_kept"
        case Failure():
            return _OUTCOMES[reading.verdict]


def check_tokens(tokens: TokenSet, want: dict[str, Any], *, kept: str | None = None) -> None:
    """Fail unless `tokens` is what a case wants; `kept` is the refresh token where the reply brings none."""
    if (refresh_token := want.get("refresh_token")) is not None:
        assert tokens.refresh_token == (kept if refresh_token == "kept" else refresh_token)
    if "lifetime" in want:
        assert tokens.lifetime == want["lifetime"]
    if "refresh_token_lifetime" in want:
        assert tokens.refresh_token_expires_at == NOW + want["refresh_token_lifetime"]
    if "refresh_in" in want:
        assert tokens.refresh_at == NOW + want["refresh_in"]
    for name, value in want.get("extra", {}).items():
        assert tokens.extra[name] == value


def _check_failure(failure: Failure, want: dict[str, Any]) -> None:
    if "retry_after" in want:
        assert failure.retry_after == want["retry_after"]
    if "holds_provider" in want:
        assert failure.holds_provider == want["holds_provider"]
    if "reason_detail" in want:
        assert failure.detail == want["reason_detail"]
    if "claims" in want:
        assert failure.claims == want["claims"]
    assert want.get("hides", SENT_REFRESH_TOKEN) not in f"{failure} {failure.claims}"


def _body_of(case: dict[str, Any]) -> bytes:
    if "raw" in case:
        ((how, value),) = case["raw"].items()
        return _BYTES[how](value)
    return json.dumps(_with_times(case.get("json", {}))).encode()


def _with_times(value: Any) -> Any:
    match value:
        case {"epoch_in": seconds} | {"epoch_text_in": seconds}:
            return str(int(NOW + seconds))
        case dict():
            return {name: _with_times(item) for name, item in value.items()}
        case _:
            return value
