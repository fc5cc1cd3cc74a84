"""Whether each token set of a storm was renewed once, and not before it was due."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from kit.storms.storm import Storm

CLOCK_SLACK_SECONDS: Final = 0.05
"""Workers judge by the time of day, and the storm by a clock that nobody sets: the two may drift apart a little."""


def faults_in_renewals(storm: Storm) -> Iterator[str]:
    """Yield the renewals that were one too many, or came too early. Of a storm in which nobody was killed."""
    renewed_at = {rotation.access: rotation.at for rotation in storm.fake.ledger.rotations}
    due_at = due_times(storm)
    for user_id in storm.users:
        chain = [access for access, issue in storm.fake.ledger.issues.items() if issue.login.user_id == user_id]
        if (requests := storm.fake.requests(user_id)) != len(chain) - 1:
            yield f"{user_id} was renewed by {requests} requests and got {len(chain) - 1} new token sets"
        for expired, renewed in pairwise(chain):
            if renewed in renewed_at and renewed_at[renewed] < due_at[expired] - CLOCK_SLACK_SECONDS:
                yield f"{user_id} was renewed {due_at[expired] - renewed_at[renewed]:.3f} s too early"


def due_times(storm: Storm) -> dict[str, float]:
    """When each token set was due, by the fingerprint of its access token, in seconds of `time.monotonic`.

    As its holders count: the lifetime begins when a token was asked for, which the provider can't know.
    """
    expires_at = {access: issue.at + storm.regime.lifetime for access, issue in storm.fake.ledger.issues.items()}
    as_served: dict[str, float] = {}
    for worker in storm.crew.workers.values():
        for report in worker.of_kind("served"):
            end_of_life = report.at + report.life_left
            as_served[report.access] = max(end_of_life, as_served.get(report.access, end_of_life))
    buffer = storm.regime.policy.expiry_buffer
    return {access: end_of_life - buffer for access, end_of_life in (expires_at | as_served).items()}
