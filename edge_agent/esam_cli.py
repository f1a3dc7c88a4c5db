"""`ostiary-agent esam`: issue one, or see what one says of itself."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_bytes
from typing import Annotated, TypeVar

import typer

from edge_agent.clock import SystemClock
from edge_agent.esam_desk import (
    CannotIssue,
    Issued,
    blank_virtual,
    describe,
    issue,
    read_makers_key,
)
from edge_agent.explained import explained
from edge_agent.secure_element.esam_chip import Esam
from edge_agent.secure_element.esam_slots import EsamSlot, PcscSlot, VirtualSlot
from schemas.suites import SuiteName

Result = TypeVar("Result")
esam_app = typer.Typer(
    help="The chip in the lock that holds the keys of its domains.", no_args_is_help=True
)
ReaderOption = Annotated[
    str | None, typer.Option("--reader", help="A part of the name of its PC/SC contact slot.")
]
VirtualOption = Annotated[
    Path | None, typer.Option("--virtual", help="The file of a virtual ESAM.", dir_okay=False)
]


@esam_app.command()
def info(reader: ReaderOption = None, virtual: VirtualOption = None) -> None:
    """Print what the ESAM tells anybody, as JSON: serial, tries left, versions, check values."""
    with explained():
        state, tables = asyncio.run(_with_esam(_slot(reader, virtual), describe))
    shown = {
        "serial": state.serial.hex(),
        "suite": state.suite,
        "control_version": state.control_version,
        "control_check_value": state.control_check.hex(),
        "errors_left": state.errors_left,
        "domains": {
            index: {
                "floor": table.floor,
                "versions": {v: checks.model_dump() for v, checks in table.versions.items()},
            }
            for index, table in tables.items()
        },
    }
    print(json.dumps(shown))


@esam_app.command("issue")
def issue_command(
    *,
    file: Annotated[
        Path,
        typer.Option(
            help="The issuing file: its control key is used, or one is drawn and sealed there.",
            dir_okay=False,
        ),
    ],
    issuing_key: Annotated[
        Path,
        typer.Option(
            help="32 bytes that seal the file, shared with the key authority; made at first use.",
            dir_okay=False,
        ),
    ],
    reader: ReaderOption = None,
    virtual: VirtualOption = None,
    makers_key: Annotated[
        Path | None,
        typer.Option(
            help="The transport key it came with, 32 hex digits; a virtual ESAM needs none.",
            dir_okay=False,
        ),
    ] = None,
    suite: Annotated[
        SuiteName | None,
        typer.Option(help="The site's; a virtual ESAM that is to be made needs it."),
    ] = None,
) -> None:
    """Give a blank ESAM its control key, and seal a copy for the key authority.

    Prints the serial and the control key's check value; no key is ever printed. Doing it again
    finishes what was interrupted. A virtual ESAM that is made is issued or not there.
    """
    with explained(), _nothing_left(virtual, file, issuing_key):
        slot = _slot(reader, virtual)
        if virtual is not None:
            key = blank_virtual(virtual, suite)
        elif makers_key is not None:
            key = read_makers_key(makers_key)
        else:
            raise CannotIssue("an ESAM in a reader is issued with --makers-key, from its maker")

        async def work(esam: Esam) -> Issued:
            state = await esam.state()
            if suite not in (None, state.suite):
                raise CannotIssue(
                    f"ESAM {state.serial.hex()} is of suite {state.suite}, not {suite}: its suite"
                    " can't be changed"
                )
            return await issue(esam, key, file, issuing_key)

        issued = asyncio.run(_with_esam(slot, work))
    print(issued.serial)
    print(_told(issued, file, issuing_key), file=sys.stderr)


@contextmanager
def _nothing_left(virtual: Path | None, *files: Path) -> Iterator[None]:
    """Remove what was made with a new virtual ESAM, if it fails: its files are good for no other.

    With an ESAM that was there before they stay, so that doing it again finishes it.
    """
    made = []
    if virtual is not None and not virtual.exists():
        made = [path for path in (virtual, *files) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def _told(issued: Issued, file: Path, issuing_key: Path) -> str:
    done = "had its control key already" if issued.already else "has its control key"
    return (
        f"ESAM {issued.serial} ({issued.suite}) {done}, check value {issued.check_value}.\n"
        f"The key itself was not printed. It is in {file}, sealed with {issuing_key}: give the key"
        " authority both, by two ways. Who has both can write keys to this ESAM, and who has the"
        " ESAM too can make cards with its keys."
    )


def _slot(reader: str | None, virtual: Path | None) -> EsamSlot:
    if reader is not None and virtual is None:
        return PcscSlot(reader, SystemClock())
    if virtual is not None and reader is None:
        return VirtualSlot(virtual, token_bytes)
    raise CannotIssue("name the ESAM: either --reader or --virtual")


async def _with_esam(slot: EsamSlot, work: Callable[[Esam], Awaitable[Result]]) -> Result:
    esam = Esam(slot, None)
    try:
        return await work(esam)
    finally:
        await esam.close()
