"""What the storms count, as the table at the end of a long run."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What one storm did, and what came of it."""

    schedules: int = 0
    kills: int = 0
    faults: int = 0
    refreshes: int = 0
    excused_reuses: int = 0
    """Spent refresh tokens sent again because the reply was in the air at a kill or was lost."""
    reuses: int = 0
    """Spent refresh tokens sent again for no such reason."""
    users_lost: int = 0
    """Users who have to log in again for no such reason."""


_HEADINGS: Final = tuple(field.name.replace("_", " ") for field in fields(Counts))


class Tally:
    """The counts of each storm of a run."""

    def __init__(self) -> None:
        self._by_storm: dict[str, Counts] = {}

    def __bool__(self) -> bool:
        return bool(self._by_storm)

    def add(self, storm: str, counts: Counts) -> None:
        """Add `counts` to what `storm` has counted so far."""
        self._by_storm[storm] = _sum([self._by_storm.get(storm, Counts()), counts])

    def add_all(self, counts_by_storm: Mapping[str, Mapping[str, int]]) -> None:
        """Add what another tally has counted, as its `as_dicts` gives it."""
        for storm, counts in counts_by_storm.items():
            self.add(storm, Counts(**counts))

    def as_dicts(self) -> dict[str, dict[str, int]]:
        """The counts so far in plain types, which can be sent to another process."""
        return {storm: asdict(counts) for storm, counts in self._by_storm.items()}

    def lines(self) -> Iterator[str]:
        """The table, a storm a line, with a total."""
        rows = {**self._by_storm, "total": _sum(list(self._by_storm.values()))}
        width = max(map(len, rows))
        yield "  ".join([" " * width, *_HEADINGS])
        for name, counts in rows.items():
            cells = [f"{value:,}".rjust(len(head)) for head, value in zip(_HEADINGS, _values(counts), strict=True)]
            yield "  ".join([name.ljust(width), *cells])


def _values(counts: Counts) -> list[int]:
    return [getattr(counts, field.name) for field in fields(Counts)]


def _sum(several: list[Counts]) -> Counts:
    columns = zip(*map(_values, several), strict=True)
    return Counts(**{field.name: sum(column) for field, column in zip(fields(Counts), columns, strict=True)})
