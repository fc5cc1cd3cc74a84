"""Replies as providers send them, each read to the outcome that its case names."""

from typing import Final

import pytest

from kit.reply_cases import CASES_FILE, ReplyCase, check, load_cases

CASES: Final = load_cases(CASES_FILE)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_reply_comes_to_what_its_provider_means(case: ReplyCase) -> None:
    check(case)
