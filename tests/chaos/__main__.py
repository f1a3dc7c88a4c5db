"""`make chaos`: run fault schedules by seed and say which of them broke a promise."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import Annotated

import typer

from tests.chaos.real import real_building, run_real_schedule
from tests.chaos.schedule import Outcome, run_schedule

BUILDING_FOR = 10
"""So many real schedules are survived by one building."""


class Report:
    """Counts, and names the seeds that failed."""

    def __init__(self, kind: str) -> None:
        self.failed: list[int] = []
        self._kind = kind
        self._runs = 0
        self._events = 0
        self._seconds = 0.0
        self._tally: Counter[str] = Counter()

    def passed(self, seed: int, outcome: Outcome) -> None:
        self._count(seed)
        self._events += outcome.events
        self._seconds += outcome.seconds
        self._tally += outcome.tally

    def broke(self, seed: int, error: Exception) -> None:
        self._count(seed)
        self.failed.append(seed)
        typer.echo(f"seed {seed}: {type(error).__name__}: {error}")

    def show(self) -> None:
        for what, times in sorted(self._tally.items()):
            typer.echo(f"{times:9} {what}")
        typer.echo(
            f"{self._runs} {self._kind} schedules over {self._seconds / 60:.0f} minutes,"
            f" {self._events} events; failed seeds: {self.failed or 'none'}"
        )

    def _count(self, seed: int) -> None:
        self._runs += 1
        if self._runs % 10 == 0:
            typer.echo(f"{self._kind}, seed {seed}: {len(self.failed)} failed", err=True)


def main(
    schedules: Annotated[int, typer.Option(min=0, help="How many in simulated time.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the first; the next ones count up.")] = 1,
    real: Annotated[int, typer.Option(min=0, help="How many with real processes.")] = 0,
) -> None:
    """Break things by seed. In simulated time the same seed breaks the same things again.

    Real schedules need mosquitto, and take some 15 s each.
    """
    reports = []
    if schedules:
        reports.append(simulated(range(seed, seed + schedules)))
    if real:
        reports.append(asyncio.run(with_processes(range(seed, seed + real))))
    for report in reports:
        report.show()
    sys.exit(any(report.failed for report in reports))


def simulated(seeds: range) -> Report:
    """Agents and ingest in this process."""
    report = Report("simulated")
    for seed in seeds:
        try:
            report.passed(seed, run_schedule(seed))
        except Exception as error:
            report.broke(seed, error)
    return report


async def with_processes(seeds: range) -> Report:
    """Sites of processes; a site that broke a promise is not used again."""
    report = Report("real")
    left = list(seeds)
    while left:
        async with real_building(left[0] // BUILDING_FOR) as building:
            before = 0
            for _ in range(min(BUILDING_FOR, len(left))):
                seed = left.pop(0)
                try:
                    outcome = await run_real_schedule(building, seed)
                except Exception as error:
                    report.broke(seed, error)
                    break
                report.passed(
                    seed, Outcome(outcome.events - before, outcome.seconds, outcome.tally)
                )
                before = outcome.events
    return report


if __name__ == "__main__":
    typer.run(main)
