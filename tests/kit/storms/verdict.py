"""What a storm proves: which reuses a kill excuses, and whether callers met anything but what follows from those.

A SIGKILL between the provider's act and the write of its reply loses the reply; no program can help that. Nor can one
that stands still for longer than its lease store a reply in time, or take back a request that it was about to send. A
reuse is excused only where the evidence says that this is what happened.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from kit.storms.ledger import Login, Reuse, Rotation
from kit.storms.reports import Life, Pause, Report
from kit.storms.storm import Storm
from kit.tally import Counts

MOMENT_SECONDS: Final = 2.0
"""More than a process needs, on a busy machine, for what takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a storm. If all is well, `faults` is empty.

    `outage_failures` counts the callers who were told that the store was down.
    """

    counts: Counts
    faults: list[str]
    outage_failures: int


def is_excused(reuse: Reuse, lives: Mapping[int, Life], left_behind: AbstractSet[Rotation]) -> bool:
    """Whether `reuse` comes of a request or reply that was in the air when its process was killed or stopped."""
    rotation = reuse.rotation
    sender, spender = lives[reuse.process], lives[rotation.process]
    if sender is not spender and any(
        absence.begun <= rotation.at and reuse.at <= absence.over + MOMENT_SECONDS for absence in sender.absences
    ):
        return True  # a holder of the lease was about to send it, or had, when it was killed or stopped
    if any(report.access == rotation.access for report in spender.of_kind("served")):
        return False  # what callers have seen must have been stored before
    return any(
        absence.begun <= reuse.at and (rotation in left_behind or absence.certain <= rotation.at <= absence.over)
        for absence in spender.absences
    )


async def verdict_on(storm: Storm) -> Verdict:
    """Judge a storm whose workers have all ended."""
    ledger, workers = storm.fake.ledger, storm.crew.workers
    excused: list[Reuse] = []
    reuses: list[Reuse] = []
    for reuse in ledger.repeated:
        (excused if is_excused(reuse, workers, storm.left_behind) else reuses).append(reuse)
    lost: dict[Login, float] = {}
    for reuse in excused:
        lost.setdefault(reuse.rotation.login, reuse.at)
    users_lost = await storm.users_lost() | {login.user_id for login in storm.repeated_logins - lost.keys()}
    faults = [f"a reuse without an excuse: {reuse}" for reuse in reuses]
    faults += [f"{login} was lost to a kill, and nobody was told" for login in lost.keys() - storm.repeated_logins]
    faults += [f"{user_id} has lost the grant" for user_id in sorted(users_lost)]
    if not storm.has_calmed_down:
        faults.append("when the storm was over, some user was not served by some worker")
    for worker in workers.values():
        faults += _wrongly_served(worker, storm)
        faults += _wrongly_failed(worker, storm, lost)
    if (len(ledger.rotations), len(ledger.repeated)) != (storm.fake.refreshes(), storm.fake.reuses()):
        faults.append("the ledger has not seen all that the provider counted")
    counts = Counts(
        kills=sum(worker.killed_at is not None for worker in workers.values()),
        refreshes=len(ledger.rotations),
        excused_reuses=len(excused),
        reuses=len(reuses),
        users_lost=len(users_lost),
    )
    return Verdict(counts, faults, sum(len(_failed_by_outages(worker, storm)) for worker in workers.values()))


def _wrongly_served(worker: Life, storm: Storm) -> Iterator[str]:
    for report in worker.of_kind("served"):
        issue = storm.fake.ledger.issues.get(report.access)
        if issue is None or issue.login.user_id != report.user_id:
            yield f"{worker} served somebody else's token: {report}"
        if report.life_left <= 0 and not _expired_in_a_pause(report, [*worker.pauses, *worker.stalls, *storm.stalls]):
            yield f"{worker} served an expired token: {report}"


def _expired_in_a_pause(report: Report, pauses: Iterable[Pause]) -> bool:
    """Whether the token in `report` was good until somebody stood still on its way to the caller."""
    expired_at = report.at + report.life_left
    return any(
        pause.begun <= expired_at <= pause.over + MOMENT_SECONDS and report.asked_at <= pause.over + MOMENT_SECONDS
        for pause in pauses
    )


def _wrongly_failed(worker: Life, storm: Storm, lost: Mapping[Login, float]) -> Iterator[str]:
    """Yield the failures in `worker` that are neither about a grant lost to a kill nor about an outage of the store."""
    by_outages = _failed_by_outages(worker, storm)
    for report in worker.of_kind("failed"):
        if report in by_outages:
            continue
        told_to_log_in = (report.error, report.code) == ("ReauthenticationRequired", "refused")
        if not told_to_log_in or not any(
            login.user_id == report.user_id
            and at <= report.at
            and login.number >= _latest_login_known(worker, report, storm)
            for login, at in lost.items()
        ):
            yield f"{worker} failed a caller: {report}"


def _failed_by_outages(worker: Life, storm: Storm) -> list[Report]:
    """The failures in `worker` that tell truly that the store was down.

    As the pause between two attempts to store a renewal doubles, the first one after an outage comes, at the latest,
    when it has been over for as long as it lasted.
    """
    return [
        report
        for report in worker.of_kind("failed")
        if report.error in {"StoreUnavailable", "LeaseTimeout"}
        and any(
            outage.began <= report.at <= outage.ended + (outage.ended - outage.began) + MOMENT_SECONDS
            for outage in storm.outages
        )
    ]


def _latest_login_known(worker: Life, failure: Report, storm: Storm) -> int:
    """The number of the user's latest login of which `worker` had served a token before the caller asked."""
    issues = storm.fake.ledger.issues
    return max(
        (
            issues[report.access].login.number
            for report in worker.of_kind("served")
            if report.user_id == failure.user_id and report.at < failure.asked_at and report.access in issues
        ),
        default=0,
    )
