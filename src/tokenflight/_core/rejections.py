"""Access tokens that APIs rejected, and which rejections to believe.

A rejected access token is not handed out again: the next caller waits for a renewal. But some endpoints answer 401
whatever the token, such as one whose scope the user never granted. Each poll of it would renew the token once. So the
token that answered a rejection is on probation: rejected too soon, it stays good, and the API's 401 is the caller's to
deal with. Each time that happens after a renewal, the probation of the next token is twice as long.
"""

from dataclasses import dataclass, replace
from typing import Final

from tokenflight._core.limits import Limits


@dataclass(frozen=True, slots=True)
class KnownRejections:
    """What is known of one user's rejections.

    `tokens` are the last few that were rejected. `answered` is the access token that a renewal brought after the last
    of them, on probation until `until` in POSIX seconds; `renewals` counts the renewals that a rejection caused.
    """

    tokens: tuple[str, ...] = ()
    renewals: int = 0
    answered: str | None = None
    since: float = 0.0
    until: float = 0.0


_NOTHING: Final = KnownRejections()


class Rejections:
    """The rejected access tokens of at most `limits.max_rejected_users` users, a few of each."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_user: dict[str, KnownRejections] = {}

    def __len__(self) -> int:
        return len(self._by_user)

    def __contains__(self, user_and_token: tuple[str, str]) -> bool:
        user_id, access_token = user_and_token
        user = self._by_user.get(user_id)
        return user is not None and access_token in user.tokens

    def add(self, user_id: str, access_token: str, *, current: str | None, now: float) -> bool:
        """Remember that an API rejected `access_token`; say whether the rejection is believed.

        `current` is the access token that would be handed out now. It is never forgotten, however many older tokens
        are rejected after it.
        """
        user = (
            self._by_user.pop(user_id, None) or KnownRejections()
        )  # taken out first, so that it goes to the end of the dict
        is_believed = not (access_token == user.answered and user.since <= now < user.until)
        if is_believed:
            tokens = user.tokens if access_token in user.tokens else (*user.tokens, access_token)
            bound = self._limits.max_rejected_per_user
            kept = tokens[-bound:]
            if current in tokens[:-bound] and current is not None:
                kept = (current, *kept)
            user = replace(user, tokens=kept)
        self._by_user[user_id] = user
        if len(self._by_user) > self._limits.max_rejected_users:
            del self._by_user[next(iter(self._by_user))]
        return is_believed

    def answer(self, user_id: str, access_token: str, *, replaced: str | None, now: float) -> None:
        """Note that the provider has issued `access_token` in place of `replaced`: it is not a rejected one.

        If `replaced` had been rejected, the new one is on probation.
        """
        user = self._by_user.get(user_id)
        if user is None:
            return
        if replaced in user.tokens:
            long_ago = now - user.until > self._limits.longest_probation
            renewals = 1 if long_ago else user.renewals + 1
            longest = self._limits.longest_probation
            seconds = min(self._limits.first_probation * 2.0 ** min(renewals - 1, 30), longest)
            user = replace(user, renewals=renewals, answered=access_token, since=now, until=now + seconds)
        self._by_user[user_id] = replace(user, tokens=tuple(token for token in user.tokens if token != access_token))

    def known(self, user_id: str) -> KnownRejections:
        """What is known of `user_id` now."""
        return self._by_user.get(user_id, _NOTHING)

    def forgive(self, user_id: str, access_token: str, known: KnownRejections) -> None:
        """Note that a login brought `access_token`: it is not a rejected one, and is on no probation.

        Unless it was rejected while the login was on its way: `known` is what was known when that began.
        """
        user = self._by_user.get(user_id)
        if user is None or (user is not known and access_token in user.tokens):
            return
        tokens = tuple(token for token in user.tokens if token != access_token)
        if tokens:
            self._by_user[user_id] = KnownRejections(tokens)
        else:
            del self._by_user[user_id]
