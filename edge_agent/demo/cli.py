"""`ostiary-demo`: the whole system at work on this machine, with nobody's help."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console

from edge_agent.demo.building import BrokerKind, Building
from edge_agent.demo.figures import Figures
from edge_agent.demo.processes import ProcessFailed
from edge_agent.demo.show import ROUND, run_demo
from schemas.suites import SuiteName

DOOR_NAMES = ("front", "office", "lab", "store", "garage", "roof", "archive", "kitchen")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


@app.command()
def demo(  # noqa: PLR0917 typer passes options by name
    suite: Annotated[SuiteName, typer.Option(help="gm (SM2, SM3, SM4) or intl.")] = "intl",
    doors: Annotated[int, typer.Option(min=1, max=len(DOOR_NAMES), help="How many doors.")] = 3,
    taps: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="How many taps; endless without, or 60 with --exit."),
    ] = None,
    pause: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Mean seconds between people at a door; 2, or 0.4 with --exit."
        ),
    ] = None,
    leave: Annotated[
        bool, typer.Option("--exit", help="End after the taps instead of waiting for Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as one JSON line at the end.")
    ] = False,
    broker: Annotated[BrokerKind, typer.Option(help="Which broker carries it.")] = "builtin",
    port: Annotated[int, typer.Option(help="Port of the live page; 0 picks a free one.")] = 8080,
    seed: Annotated[int, typer.Option(help="Same seed, same people in the same order.")] = 1,
    keep: Annotated[
        Path | None, typer.Option(help="Run in this new folder and leave it there afterwards.")
    ] = None,
) -> None:
    """Run a small building: broker, server, doors, cards and people. Ctrl-C ends it cleanly."""
    if port and _in_use(port):
        console.print(
            f"Port {port} is in use. Choose another, or 0 for a free one:"
            ' --port 0, or make demo ARGS="--port 0"',
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)
    if leave and taps is None:
        taps = ROUND
    pause_s = pause if pause is not None else (0.4 if leave else 2.0)
    try:
        with _folder(keep) as folder:
            building = Building(folder, suite, list(DOOR_NAMES[:doors]), broker)
            if port:
                building.port = port
            result = asyncio.run(_cancelled_by_sigterm(building, taps, leave, pause_s, seed))
    except ProcessFailed as error:
        console.print(
            f"The demo failed: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        raise typer.Exit(1) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped. Nothing is left running.")
        return
    if as_json:
        typer.echo(result.to_json())
    else:
        console.print_json(result.to_json())


async def _cancelled_by_sigterm(
    building: Building, taps: int | None, leave: bool, pause_s: float, seed: int
) -> Figures:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    random = Random(seed)  # noqa: S311 people, not keys
    return await run_demo(building, console, random, taps=taps, leave=leave, pause_s=pause_s)


def _in_use(port: int) -> bool:
    """Asked first: the server would say so too, but only once all is set up."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="ostiary-demo-") as temporary:
            yield Path(temporary)
        return
    try:
        keep.mkdir(parents=True)
    except FileExistsError:
        raise typer.BadParameter(f"{keep} is there already; name a new folder") from None
    yield keep.resolve()


def main() -> None:
    """Entry point."""
    app()
