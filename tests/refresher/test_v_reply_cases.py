"""Replies as providers send them, each with all that follows: what the caller gets, and what is stored then."""

from typing import Any, Final

import pytest
import time_machine

from kit.loopback import answering, http_reply, serving
from kit.reply_cases import CASES_FILE, NOW, SENT_REFRESH_TOKEN, ReplyCase, check_tokens, load_cases
from tokenflight import (
    InvalidProviderResponse,
    MemoryTokenStore,
    OAuth2Provider,
    ProviderMisconfigured,
    ProviderUnavailable,
    PublicClient,
    ReauthenticationRequired,
    StoredTokens,
    TokenflightError,
    TokenKey,
    TokenRefresher,
    TokenSet,
)

CASES: Final = load_cases(CASES_FILE)
ERRORS: Final[dict[str, type[TokenflightError]]] = {
    "login_again": ReauthenticationRequired,
    "try_later": ProviderUnavailable,
    "misconfigured": ProviderMisconfigured,
    "invalid_but_kept": InvalidProviderResponse,
}
KEY: Final = TokenKey("vendor", "alice")


async def outcome_of(case: ReplyCase, store: MemoryTokenStore) -> tuple[TokenSet | TokenflightError, int]:
    """What `case` comes to for a caller of a new refresher, and how many requests reached the provider."""
    headers = [f"{name}: {value}" for name, value in case.headers.items()]
    async with serving(answering(http_reply(case.body, f"{case.status} Status", *headers))) as server:
        provider = OAuth2Provider(server.url, PublicClient("app"), name=KEY.provider, profile=case.profile)
        async with TokenRefresher(provider, store) as refresher:
            try:
                return await refresher.get_valid_token(KEY.user_id), len(server.requests)
            except TokenflightError as error:
                return error, len(server.requests)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
async def test_a_reply_comes_to_what_its_provider_means_for_the_caller_and_for_the_record(
    case: ReplyCase, clock: time_machine.Traveller
) -> None:
    # DUE where the present token may be served, dead where a caller has to hear of the failure.
    life_left = 100 if case.outcome == "not_yet" else -1
    before = TokenSet("at-0", refresh_token=SENT_REFRESH_TOKEN, expires_at=NOW + life_left, issued_at=NOW - 3600)
    store = MemoryTokenStore()
    await store.save(KEY, StoredTokens(before))

    outcome, requests = await outcome_of(case, store)

    record = await store.load(KEY)
    assert record is not None
    assert requests == 1
    assert record.refused == (case.outcome == "login_again")
    if isinstance(outcome, TokenSet):
        assert "tokens" in case.outcome or outcome == before
        assert record.tokens == outcome
        check_tokens(outcome, case.want, kept=SENT_REFRESH_TOKEN)
        return
    assert type(outcome) is ERRORS[case.outcome]
    kept = case.want.get("refresh_token", SENT_REFRESH_TOKEN)
    assert (record.tokens.access_token, record.tokens.refresh_token) == ("at-0", kept)
    _check_error(outcome, case.want)


def _check_error(error: TokenflightError, want: dict[str, Any]) -> None:
    told = vars(error)
    for name, member in {"retry_after": "retry_after", "detail": "reason_detail", "claims": "claims"}.items():
        if member in want:
            assert told[name] == want[member]
    assert SENT_REFRESH_TOKEN not in f"{error} {told}"
    if want.get("holds_provider"):
        assert error.code == "rate_limited"


REFUSED: Final = [case for case in CASES if case.outcome == "login_again"]


@pytest.mark.parametrize("case", REFUSED, ids=[case.id for case in REFUSED])
async def test_t3_a_refusal_in_any_words_is_remembered_across_a_restart(case: ReplyCase) -> None:
    store = MemoryTokenStore()
    await store.save(KEY, StoredTokens(TokenSet("at-0", refresh_token=SENT_REFRESH_TOKEN, expires_at=1.0)))
    outcomes = [await outcome_of(case, store) for _ in range(2)]

    assert [(type(outcome), requests) for outcome, requests in outcomes] == [
        (ReauthenticationRequired, 1),
        (ReauthenticationRequired, 0),
    ]
