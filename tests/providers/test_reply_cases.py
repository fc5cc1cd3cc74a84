"""Replies as providers send them, each read to the outcome that its case names."""

from pathlib import Path
from typing import Final

import pytest

from kit.reply_cases import ReplyCase, check, load_cases

CASES: Final = load_cases(Path(__file__).parents[1] / "cases" / "token_replies.json")

_CHAPTERS: Final = {
    "tokens": "V1",
    "tokens_or_invalid_but_kept": "V1",
    "invalid_but_kept": "V1",
    "login_again": "V2",
    "misconfigured": "V2",
    "not_yet": "V9",
}


def chapter_of(case: ReplyCase) -> str:
    """The row of the failure catalogue that a case belongs to."""
    return _CHAPTERS.get(case.outcome) or ("V6" if case.status == 429 else "V3")


@pytest.mark.parametrize("case", CASES, ids=[f"{chapter_of(case)}: {case.name}" for case in CASES])
def test_a_reply_comes_to_what_its_provider_means(case: ReplyCase) -> None:
    check(case)
