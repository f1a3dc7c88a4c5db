"""The command line of the agent."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from edge_agent.app import CannotStart, Parts, load_root, run_agent
from edge_agent.bind_desk import bind_cards, read_transport_keys
from edge_agent.config import Config, load_config
from edge_agent.core.door_mode import exempt_groups
from edge_agent.core.freshness import freshness
from edge_agent.core.trusted_state import TrustedState
from edge_agent.database import connect
from edge_agent.enrol_command import enrol_device
from edge_agent.esam_cli import esam_app
from edge_agent.esam_desk import lend_from
from edge_agent.explained import explained
from edge_agent.identity import identity_json
from edge_agent.log import configure_log
from edge_agent.outbox_tables import read_state
from edge_agent.state_dir import is_held
from edge_agent.tls import TlsIdentity
from edge_agent.trust_tables import load, load_notes
from edge_agent.watchdog import Notifier

app = typer.Typer(
    help="Decides at the door who may enter, drives the strike, and signs what happened.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(esam_app, name="esam")
ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        envvar="OSTIARY_AGENT_CONFIG",
        help="The TOML file; OSTIARY_AGENT_* variables stand over it.",
        dir_okay=False,
    ),
]
DEFAULT_CONFIG = Path("/etc/ostiary/agent.toml")


def _version(asked: bool) -> None:
    if asked:
        print(f"ostiary-agent {version('ostiary')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Serve the doors until SIGTERM. Logs to standard error."""
    with explained():
        settings = load_config(config, os.environ)
        configure_log(settings.log_level)
        raise typer.Exit(asyncio.run(run_agent(settings, Notifier())))


@app.command()
def status(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what the state directory says: events that wait, and what the doors go by."""
    with explained():
        found = _status(load_config(config, os.environ))
    if as_json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        name, unit = (key.removesuffix("_s"), " s") if key.endswith("_s") else (key, "")
        print(f"{name.replace('_', ' '):<18} {_text(value)}{unit if value is not None else ''}")


def _text(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{key}: {each}" for key, each in value.items())
        case list():
            return ", ".join(map(str, value)) or "none"
        case _:
            return "none" if value is None else str(value)


def _status(config: Config) -> dict[str, Any]:
    for path in (config.outbox_path, config.trust_path):
        if not path.exists():
            raise CannotStart(f"{path} is not there: the agent has never run with this state_dir")
    outbox, trust = connect(config.outbox_path), connect(config.trust_path)
    certificate_until = TlsIdentity(config.state_dir, b"").until
    try:
        events, trusted, notes = read_state(outbox), load(trust), load_notes(trust)
    finally:
        outbox.close()
        trust.close()
    return {
        "site": config.site,
        "agent": config.agent,
        "chain": events.head.chain,
        "sequence": events.head.sequence,
        "hash": events.head.hash,
        "acknowledged": events.acknowledged,
        "unacknowledged": events.waiting,
        "capacity": config.capacity,
        "lost": 0 if events.lost is None else events.lost.count,
        **({} if trusted is None else _trusted(trusted)),
        "session": notes.get("session") if is_held(config.state_dir) else None,
        "certificate_until": certificate_until and certificate_until.isoformat(),
    }


def _trusted(state: TrustedState) -> dict[str, Any]:
    """What the doors go by. The age is by this machine's clock, and so is what it means."""
    heard, policy = state.heard, state.policy
    now = datetime.now(UTC)
    age_s = None if heard is None else max(0.0, (now - heard).total_seconds())
    doors = {} if policy is None else policy.doors
    active = () if state.lockdowns is None else state.lockdowns.active
    return {
        "root_version": state.root.version,
        "policy_version": None if policy is None else policy.counter,
        "policy_hash": state.policy_hash,
        "revocation": state.revocation.sequence,
        "lockdown": 0 if state.lockdowns is None else state.lockdowns.counter,
        "locked_down": [
            name
            for name, door in doors.items()
            if exempt_groups(state.root.site, name, door.areas, active) is not None
        ],
        "heartbeat_age_s": None if age_s is None else round(age_s, 1),
        "freshness": {name: freshness(age_s, door.grace_s) for name, door in doors.items()},
        "command": state.command,
    }


@app.command()
def check_config(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Say whether the configuration and the root document can be used; touch nothing."""
    with explained():
        settings = load_config(config, os.environ)
        root = load_root(settings)
    doors = ", ".join(door.door for door in settings.doors)
    Console().print(f"{config} is good: site {root.site}, suite {root.suite}, doors {doors}")


@app.command()
def enrol(
    claim: Annotated[
        str | None,
        typer.Argument(
            help="The code from `ostiary agents claim`, in quotes; asked for if it is left out."
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    again: Annotated[
        bool, typer.Option("--again", help="Though it is enrolled: give it new keys.")
    ] = False,
) -> None:
    """Make this device an agent of the site whose operator gave you the claim code.

    Waits until an operator has compared the fingerprint and approved. If it is interrupted, the
    same command goes on where it stopped.
    """
    with explained():
        code = claim or typer.prompt("Claim code")
        enrol_device(code, config, os.environ, again=again)


@app.command()
def identity(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print this agent's public key as JSON."""
    with explained():
        settings = load_config(config, os.environ)
        parts = Parts.open(settings)
    print(identity_json(settings.agent, parts.signer))


@app.command()
def bind(
    transport_keys: Annotated[
        Path,
        typer.Option(
            help="CSV from the card's maker: card,transport_key in hex. Keep it off this machine"
            " when done.",
            dir_okay=False,
        ),
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    count: Annotated[int, typer.Option(min=1, help="How many cards to wait for.")] = 1,
    issued: Annotated[
        Path | None,
        typer.Option(
            help="Where the door's keys are on an ESAM: its issuing file.", dir_okay=False
        ),
    ] = None,
    issuing_key: Annotated[
        Path | None, typer.Option(help="What the issuing file is sealed with.", dir_okay=False)
    ] = None,
) -> None:
    """Give cards held to the first reader the keys of its door; print each card's id.

    The agent must not be running. A card that is bound already counts, and stays as it is.
    """
    with explained():
        settings = load_config(config, os.environ)
        configure_log(settings.log_level)
        keys = read_transport_keys(transport_keys)
        lend = None if issued is None else lend_from(issued, issuing_key)
        asyncio.run(
            bind_cards(
                settings,
                keys,
                count,
                ready=lambda door: print(
                    f"hold {count} card(s), one after the other, to the reader of {door}"
                    "   (Ctrl-C ends)",
                    file=sys.stderr,
                ),
                bound=lambda card: print(card, flush=True),
                refused=lambda why: print(f"not bound: {why}", file=sys.stderr),
                lend=lend,
            )
        )


def main() -> None:
    """The `ostiary-agent` program."""
    app()


if __name__ == "__main__":
    main()
