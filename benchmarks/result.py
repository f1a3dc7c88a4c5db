"""One measured figure, and how a run is shown."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """A figure, its floor from the same run where there is one, and the bar it is held against."""

    name: str
    value: float
    unit: str
    bar: str
    met: bool
    floor: float | None = None
    floor_is: str = ""
    ratio: float | None = None


def show(rows: list[Row]) -> None:
    """The table on standard output."""
    table = Table("measured", "value", "floor", "ratio", "bar", "", title="Ostiary benchmarks")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.value:,} {row.unit}",
            f"{row.floor:,} ({row.floor_is})" if row.floor is not None else "",
            f"{row.ratio}" if row.ratio is not None else "",
            row.bar,
            "met" if row.met else "NOT MET",
        )
    Console().print(table)


def write(rows: list[Row], path: Path) -> None:
    """The same as JSON, with when and on what it was measured."""
    path.write_text(
        json.dumps(
            {
                "measured": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": {
                    "cores": os.cpu_count(),
                    "architecture": platform.machine(),
                    "python": platform.python_version(),
                },
                "rows": [asdict(row) for row in rows],
            },
            indent=2,
        )
        + "\n"
    )
