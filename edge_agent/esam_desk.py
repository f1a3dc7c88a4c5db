"""Issues ESAMs: gives a blank chip its control key, and the key authority a sealed copy of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes

from edge_agent.files import read_kek, write_private
from edge_agent.secure_element.esam_chip import ChallengeOver, Esam, Lend, Loan, PackageRefused
from edge_agent.secure_element.esam_layout import INDEXES, KeyTable, State
from edge_agent.virtual.esam_os import VirtualEsam
from schemas.esam import CLA_SECURE, CONTROL_KEY, SERIAL_BYTES, WRITE_KEY, check_value
from schemas.esam_issue import ControlKey
from schemas.esam_issued import BadIssuingFile, IssuedEsam
from schemas.suites import SuiteName, suite
from schemas.suites.suite import KEY_BYTES

FIRST_CONTROL_VERSION = 1
_KEY = re.compile(r"[0-9a-f]{32}")


class CannotIssue(Exception):
    """The ESAM was left as it is; the message says why and what to do."""


@dataclass(frozen=True)
class Issued:
    """What came of it; nothing in it is secret."""

    serial: str
    suite: SuiteName
    check_value: str
    already: bool
    """It had this control key before."""


async def issue(esam: Esam, makers_key: bytes, file: Path, issuing_key: Path) -> Issued:
    """Give the chip the control key of the issuing file, drawn and sealed there if it is none.

    The file is on disk before the chip is written, so nothing that fails in between loses the key,
    and doing it again finishes it. Raises CannotIssue, BadIssuingFile, UnsafeKeyFile, OSError or
    ElementUnavailable.
    """
    state = await esam.state()
    kek = read_kek(issuing_key, token_bytes)
    control = _control_key(state, file, kek)
    check = check_value(control.suite, control.key)
    if state.control_version > 0:
        if (state.control_version, state.control_check) == (FIRST_CONTROL_VERSION, check):
            return Issued(state.serial.hex(), state.suite, check.hex(), already=True)
        raise CannotIssue(
            f"ESAM {state.serial.hex()} was issued before, with a control key that is not the one"
            f" in {file}: name the file it was issued with"
        )
    makers = ControlKey(control.suite, state.serial, makers_key)
    challenge = await esam.challenge()
    data = makers.successor(challenge, FIRST_CONTROL_VERSION, control.key)
    header = bytes((CLA_SECURE, WRITE_KEY, CONTROL_KEY, FIRST_CONTROL_VERSION))
    try:
        await esam.write(header, data, challenge)
    except (ChallengeOver, PackageRefused) as error:
        left = (await esam.state()).errors_left
        raise CannotIssue(
            f"ESAM {state.serial.hex()} does not take a control key under this maker's key"
            f" ({error}); {left} tries are left before it is lost. Ask its maker for the key"
        ) from None
    after = await esam.state()
    if (after.control_version, after.control_check) != (FIRST_CONTROL_VERSION, check):
        raise CannotIssue(
            f"ESAM {state.serial.hex()} says it took the control key and shows another: don't use"
            " it"
        )
    return Issued(state.serial.hex(), state.suite, check.hex(), already=False)


def _control_key(state: State, file: Path, kek: bytes) -> ControlKey:
    try:
        issued = IssuedEsam.read(file.read_bytes())
    except FileNotFoundError:
        if state.control_version > 0:
            raise CannotIssue(
                f"ESAM {state.serial.hex()} was issued before, and {file} is not there: name the"
                " file it was issued with"
            ) from None
        control = ControlKey(suite(state.suite), state.serial, token_bytes(KEY_BYTES))
        drawn = IssuedEsam.of(kek, control, FIRST_CONTROL_VERSION, token_bytes)
        write_private(file, drawn.model_dump_json().encode() + b"\n")
        return control
    except BadIssuingFile as error:
        raise BadIssuingFile(f"{file}: {error}") from None
    if (issued.serial, issued.suite) != (state.serial.hex(), state.suite):
        raise CannotIssue(
            f"{file} is for ESAM {issued.serial} of suite {issued.suite}; in the slot is"
            f" {state.serial.hex()} of suite {state.suite}"
        )
    return _unseal(issued, file, kek)


def _unseal(issued: IssuedEsam, file: Path, kek: bytes) -> ControlKey:
    try:
        return issued.control_key(kek)
    except BadIssuingFile as error:
        raise BadIssuingFile(f"{file}: {error}") from None


def read_makers_key(path: Path) -> bytes:
    """The transport key a maker delivers ESAMs with: 32 hex digits. Raises CannotIssue, OSError."""
    text = path.read_text(errors="replace").strip().lower()
    if _KEY.fullmatch(text) is None:
        raise CannotIssue(f"{path} is not a key of 32 hex digits")
    return bytes.fromhex(text)


def blank_virtual(path: Path, name: SuiteName | None) -> bytes:
    """The maker's key of the virtual ESAM at `path`, which is made blank if there is none.

    Raises BadImage, OSError, or CannotIssue if one is to be made without a suite.
    """
    if not path.exists():
        if name is None:
            raise CannotIssue(
                f"{path} is to be made: say --suite gm or --suite intl, whichever the site has"
            )
        VirtualEsam(path, name, token_bytes(SERIAL_BYTES), token_bytes(KEY_BYTES), token_bytes)
    return VirtualEsam.open(path, token_bytes).image.control_key


async def describe(esam: Esam) -> tuple[State, dict[int, KeyTable]]:
    """What the chip says of itself, and its key tables by index, without empty ones.

    Raises ElementUnavailable.
    """
    state = await esam.state()
    tables = {index: await esam.table_at(index) for index in INDEXES}
    return state, {i: table for i, table in tables.items() if table.floor or table.versions}


def lend_from(file: Path, issuing_key: Path | None) -> Lend:
    """Lends transport keys to the one ESAM of an issuing file, where cards are bound.

    Raises CannotIssue, BadIssuingFile, UnsafeKeyFile or OSError.
    """
    if issuing_key is None or not issuing_key.exists():
        raise CannotIssue(f"name by --issuing-key what {file} was sealed with")
    try:
        issued = IssuedEsam.read(file.read_bytes())
    except BadIssuingFile as error:
        raise BadIssuingFile(f"{file}: {error}") from None
    control = _unseal(issued, file, read_kek(issuing_key, token_bytes))

    async def lend(serial: bytes, challenge: bytes, loan: Loan) -> bytes:
        if serial != control.serial:
            raise BadIssuingFile(f"{file} is for ESAM {issued.serial}, not for {serial.hex()}")
        return control.lend(
            challenge,
            index=loan.index,
            version=loan.version,
            card_id=loan.card_id,
            transport_key=loan.transport_key,
        )

    return lend
