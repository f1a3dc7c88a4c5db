"""How a command of the agent that can't be carried out says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from edge_agent.app import CannotStart
from edge_agent.config import ConfigError
from edge_agent.enrol import CannotEnrol
from edge_agent.esam_desk import CannotIssue
from edge_agent.files import UnsafeKeyFile
from edge_agent.readers.port import ReaderUnavailable
from edge_agent.secure_element.port import ElementUnavailable
from edge_agent.state_dir import StateDirBusy
from edge_agent.virtual.chip import BadImage
from schemas.errors import SchemaError
from schemas.esam_issued import BadIssuingFile

NEXT_STEPS = {
    PermissionError: "run this as the user who owns it, or correct its owner and mode",
    FileExistsError: "something else has this name; move it, or name another path",
}
REFUSALS = (
    BadImage,
    BadIssuingFile,
    CannotIssue,
    CannotEnrol,
    CannotStart,
    ConfigError,
    ElementUnavailable,
    OSError,
    ReaderUnavailable,
    SchemaError,
    StateDirBusy,
    UnsafeKeyFile,
)


@contextmanager
def explained() -> Iterator[None]:
    """A refusal that names its cause is a message and exit code 1, not a traceback."""
    try:
        yield
    except REFUSALS as error:
        told = _told(error) if isinstance(error, OSError) else str(error)
        Console(stderr=True).print(
            f"ostiary-agent: {told}", markup=False, highlight=False, soft_wrap=True
        )
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _told(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return str(error)
    next_step = NEXT_STEPS.get(type(error))
    return f"{error.filename}: {error.strerror}" + (f"; {next_step}" if next_step else "")
