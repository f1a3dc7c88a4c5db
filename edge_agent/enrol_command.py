"""`ostiary-agent enrol`: the steps of `edge_agent.enrol`, with words for whoever stands there."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import sleep

from rich.console import Console

from edge_agent.clock import SystemClock
from edge_agent.config import Config, load_config
from edge_agent.enrol import (
    Application,
    CannotEnrol,
    fetch_root,
    set_aside,
    settle,
    wait_for_approval,
)
from edge_agent.enrolled import Enrolled, read_enrolled
from edge_agent.files import read_kek
from edge_agent.identity import open_identity
from edge_agent.outbox import Outbox
from edge_agent.state_dir import hold
from edge_agent.tls import TlsIdentity
from schemas.enrolment import Claim, EnrolmentAnswer, fingerprint
from schemas.envelope import Signer
from schemas.events import agent_source
from schemas.root import Root
from schemas.suites import suite

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class _Made:
    """What the device made for itself."""

    signer: Signer
    tls: TlsIdentity
    chain: str


def enrol_device(code: str, file: Path, environment: Mapping[str, str], *, again: bool) -> None:
    """Enrol this device. Raises CannotEnrol, and what a wrong configuration raises."""
    claim = Claim.parse(code)
    root, envelope = fetch_root(claim)
    config = load_config(file, environment, enrolling={"site": root.site, "agent": claim.agent})
    with hold(config.state_dir):
        _make_room(config, again=again)
        made = _keys(config, root)
        application = Application.make(
            claim,
            root,
            signer=made.signer,
            tls=made.tls,
            chain=made.chain,
            now=datetime.now(UTC),
        )
        answer = _approval(application, made.signer)
        enrolled = settle(
            application,
            answer,
            state_dir=config.state_dir,
            root_file=config.root,
            root_envelope=envelope,
            tls=made.tls,
        )
    _done(enrolled, file)


def _make_room(config: Config, *, again: bool) -> None:
    enrolled = read_enrolled(config.state_dir)
    if enrolled is None:
        return
    if not again:
        raise CannotEnrol(
            f"this device is agent {enrolled.agent} of site {enrolled.site} already. To give it new"
            " keys, use --again with a claim from `ostiary agents claim --re-enrol`"
        )
    aside = set_aside(config.state_dir, datetime.now(UTC))
    err.print(f"What this device was is in {aside}/; its events that were not sent stay there.")


def _keys(config: Config, root: Root) -> _Made:
    """Keys and event chain: made now, or found from a first try."""
    kek = read_kek(config.sealing_key, secrets.token_bytes)
    algorithms = suite(root.suite)
    signer = open_identity(config.state_dir, config.agent, kek, algorithms, secrets.token_bytes)
    return _Made(signer, TlsIdentity(config.state_dir, kek), asyncio.run(_chain(config, root)))


async def _chain(config: Config, root: Root) -> str:
    outbox = await Outbox.open(
        config.outbox_path,
        digest=suite(root.suite).digest,
        source=agent_source(root.site, config.agent),
        clock=SystemClock(),
        random=secrets.token_bytes,
        capacity=config.capacity,
    )
    chain = outbox.state.head.chain
    await outbox.close()
    return chain


def _approval(application: Application, signer: Signer) -> EnrolmentAnswer:
    def asked(answer: EnrolmentAnswer) -> None:
        ours = fingerprint(signer.keyid)
        if answer.fingerprint != ours:
            raise CannotEnrol(
                f"the server shows the fingerprint {answer.fingerprint!r:.60}, this device's is"
                f" {ours}: its request was changed on the way"
            )
        out.print(f"Fingerprint of this device:\n\n    [bold]{ours}[/]\n")
        err.print(
            f"An operator compares it and approves:  ostiary agents approve"
            f" {application.claim.agent}"
        )

    with err.status("asking") as status:

        def waiting(why: str) -> None:
            if err.is_terminal:
                status.update(f"{why}, since {datetime.now().astimezone():%H:%M:%S}")
            elif why not in told:
                told.add(why)
                err.print(why)

        told: set[str] = set()
        return wait_for_approval(application, asked=asked, waiting=waiting, sleep=sleep)


def _done(enrolled: Enrolled, file: Path) -> None:
    out.print(f"This device is agent [bold]{enrolled.agent}[/] of site [bold]{enrolled.site}[/].")
    err.print(f"Next: ostiary-agent run --config {file}")
