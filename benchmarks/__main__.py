"""`make bench`: measure everything, print a table, write benchmarks/results.json."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import decision, fleet, ingest, policy, rotation, start, tap
from benchmarks.result import Row, show, write
from edge_agent.demo.processes import ProcessFailed
from schemas.suites import SuiteName

RESULTS = Path(__file__).parent / "results.json"


async def _live(name: SuiteName) -> list[Row]:
    return [await ingest.measure(name, backlog=False)]


async def _backlog(name: SuiteName) -> list[Row]:
    return [await ingest.measure(name, backlog=True)]


MEASURES: dict[str, Callable[[], Coroutine[Any, Any, list[Row]]]] = {
    "decision": decision.measure,
    "policy": policy.measure,
    "start": start.measure,
    "packages": rotation.measure_packages,
    "tap-gm": lambda: tap.measure("gm"),
    "tap-intl": lambda: tap.measure("intl"),
    "live-gm": lambda: _live("gm"),
    "live-intl": lambda: _live("intl"),
    "backlog-gm": lambda: _backlog("gm"),
    "backlog-intl": lambda: _backlog("intl"),
    "fleet-1000-gm": lambda: fleet.measure("gm", 1_000),
    "fleet-1000-intl": lambda: fleet.measure("intl", 1_000),
    "fleet-10000-intl": lambda: fleet.measure("intl", 10_000),
    "rotation-100": lambda: rotation.measure("intl", 100),
    "rotation-1000": lambda: rotation.measure("intl", 1_000),
    "rotation-10000": lambda: rotation.measure("intl", 10_000),
}


def main(
    only: Annotated[
        list[str] | None, typer.Argument(help=f"Some of: {', '.join(MEASURES)}.")
    ] = None,
) -> None:
    """Measure Ostiary on this machine. Needs mosquitto; some three quarters of an hour for all."""
    unknown = set(only or ()) - set(MEASURES)
    if unknown:
        raise typer.BadParameter(f"unknown: {', '.join(sorted(unknown))}")
    console = Console(stderr=True)
    rows: list[Row] = []
    for name in only or MEASURES:
        console.print(f"measuring {name} ...")
        try:
            rows += asyncio.run(MEASURES[name]())
        except ProcessFailed as error:
            raise SystemExit(str(error)) from None
    show(rows)
    write(rows, RESULTS)
    console.print(f"written to {RESULTS}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
