"""`ostiary-fleet`: thousands of imagined doors against a real server, to test and to measure."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import secrets
import signal
import time
from collections import Counter
from pathlib import Path
from random import SystemRandom
from typing import Annotated, Any

import typer
from rich.console import Console

from edge_agent.fleet.chip import Chip
from edge_agent.fleet.crowd import Crowd, Identity
from schemas.envelope import Signer
from schemas.errors import SchemaError
from schemas.root import open_first_root
from schemas.suites import SuiteName, suite
from schemas.suites.suite import KEY_BYTES

REPORT_S = 1.0
FleetFile = Annotated[Path, typer.Argument(help="The fleet's keys, as `make` writes them.")]

app = typer.Typer(
    help="Imagined agents on the real protocol: what they believe and sign is real, their doors"
    " and disks are not. Never run one on a site that people use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
err = Console(stderr=True, highlight=False)


@app.command()
def make(
    fleet: FleetFile,
    doors: Annotated[int, typer.Option(min=1, max=100_000, help="How many, an agent each.")],
    suite_name: Annotated[SuiteName, typer.Option("--suite", help="That of the site.")],
    esam_domain: Annotated[
        str, typer.Option(help="Give each an ESAM for this key domain; its control key is kept.")
    ] = "",
    esam_suite: Annotated[
        SuiteName | None, typer.Option(help="That of the domain; default: the site's.")
    ] = None,
) -> None:
    """Draw a key for each agent. The file holds them in clear: it is for tests."""
    algorithms = suite(suite_name)
    with fleet.open("x") as file:
        fleet.chmod(0o600)
        for number in range(1, doors + 1):
            key = algorithms.generate(secrets.token_bytes)
            entry: dict[str, Any] = {
                "agent": f"agent-{number}",
                "door": f"door-{number}",
                "suite": suite_name,
                "point": key.public.point.hex(),
                "scalar": key.scalar.hex(),
            }
            if esam_domain:
                entry["esam"] = {
                    "serial": f"{number:016x}",
                    "domain": esam_domain,
                    "suite": esam_suite or suite_name,
                    "control_key": secrets.token_hex(KEY_BYTES),
                }
            file.write(json.dumps(entry) + "\n")
    err.print(f"{doors} agents are in {fleet}")


@app.command()
def run(
    fleet: FleetFile,
    *,
    root: Annotated[Path, typer.Option(help="The site's root.json.")],
    port: Annotated[int, typer.Option(help="Of a broker without TLS on 127.0.0.1.")],
    verify_each: Annotated[
        bool,
        typer.Option(
            "--verify-each",
            help="Let each agent verify statements to all by itself, as devices do.",
        ),
    ] = False,
    crashes: Annotated[
        float,
        typer.Option(min=0, max=1, help="The share of orders about keys that end in a crash."),
    ] = 0.0,
    cut_off: Annotated[
        int, typer.Option(min=0, help="How many lose their network at SIGUSR1, until SIGUSR2.")
    ] = 0,
    cards: Annotated[
        int, typer.Option(min=0, help="Cards with key version 1, that are held up at doors.")
    ] = 0,
    taps_per_s: Annotated[float, typer.Option(min=0.1, help="How often one is.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line for each second.")] = False,
) -> None:
    """Connect them all, and keep them going until Ctrl-C."""
    try:
        pinned = open_first_root(root.read_bytes())
    except (OSError, SchemaError) as error:
        err.print(f"{root}: {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    tally: Counter[str] = Counter()
    crowd_of = [_identity(line) for line in fleet.read_text().splitlines()]

    async def serve() -> None:
        crowd = Crowd(
            crowd_of,
            pinned,
            host="127.0.0.1",
            port=port,
            random=SystemRandom(),
            tell=lambda _agent, what, _number: tally.update((what,)),
            verify_each=verify_each,
            crashes=crashes,
        )
        gc.collect()
        gc.freeze()  # the members stay: not to be gone through with each collection
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, crowd.cut_off, cut_off)
        loop.add_signal_handler(signal.SIGUSR2, crowd.come_back)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(crowd.run())]
            if cards:
                wallet: dict[str, set[int]] = {f"{n:016x}": {1} for n in range(1, cards + 1)}
                running.append(tasks.create_task(crowd.hold_up(wallet, taps_per_s)))
            while not stop.is_set():
                _say(crowd, tally, as_json)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REPORT_S):
                        await stop.wait()
            for task in running:
                task.cancel()

    asyncio.run(serve())


def _identity(line: str) -> Identity:
    entry = json.loads(line)
    key = suite(entry["suite"]).private_key(bytes.fromhex(entry["scalar"]))
    chip = None
    if (esam := entry.get("esam")) is not None:
        chip = Chip(
            bytes.fromhex(esam["serial"]),
            esam["domain"],
            esam["suite"],
            bytes.fromhex(esam["control_key"]),
        )
    return Identity(entry["agent"], entry["door"], Signer.of(key), chip)


def _say(crowd: Crowd, tally: Counter[str], as_json: bool) -> None:
    refused: Counter[str] = Counter()
    for member in crowd.members:
        refused.update(member.refused)
    figures = {
        "connected": crowd.connected,
        "waiting_events": sum(member.waiting for member in crowd.members),
        "pulses": sum(member.pulses for member in crowd.members),
        "applied": dict(tally),
        "refused": dict(refused),
        "taps": crowd.taps,
        "lockouts": crowd.lockouts,
        "crashed": sum(member.keys.crashed for member in crowd.members if member.keys),
        "cpu_s": round(time.process_time(), 1),
    }
    if as_json:
        typer.echo(json.dumps(figures))
    else:
        err.print("   ".join(f"{name} {value}" for name, value in figures.items()), markup=False)


def main() -> None:
    """Entry point."""
    app()
