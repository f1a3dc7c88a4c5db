"""`make chaos`: run fault schedules by seed and say which of them broke a promise."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Annotated

import typer

from tests.chaos.schedule import Outcome, run_schedule


def main(
    schedules: Annotated[int, typer.Option(min=0, help="How many in simulated time.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the first; the next ones count up.")] = 1,
) -> None:
    """Break things by seed. The same seed does the same again: `--schedules 1 --seed N`."""
    began = time.monotonic()
    failed: list[int] = []
    tally: Counter[str] = Counter()
    events, simulated_s = 0, 0.0
    for number in range(seed, seed + schedules):
        try:
            outcome: Outcome = run_schedule(number)
        except Exception as error:
            failed.append(number)
            typer.echo(f"seed {number}: {type(error).__name__}: {error}")
            continue
        tally += outcome.tally
        events += outcome.events
        simulated_s += outcome.simulated_s
        if (number - seed) % 10 == 9:
            typer.echo(f"seed {number}: {events} events, {len(failed)} failed so far", err=True)
    for what, times in sorted(tally.items()):
        typer.echo(f"{times:9} {what}")
    typer.echo(
        f"{schedules} schedules, {simulated_s / 3600:.1f} simulated hours in"
        f" {time.monotonic() - began:.0f} s; {events} events; failed seeds: {failed or 'none'}"
    )
    sys.exit(bool(failed))


if __name__ == "__main__":
    typer.run(main)
