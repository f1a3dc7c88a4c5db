"""A virtual ESAM: the contact chip in a lock that holds the secrets of its key domains.

Its commands are those of docs/esam.md. One `EsamOs` lives from power-on to power-off. Whatever
bytes it is sent it answers a status word, and no answer ever holds a key or a card's key.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_agent.card import layout
from edge_agent.card.apdu import Command, MalformedApdu, Response, StatusWord
from edge_agent.secure_element import esam_layout
from edge_agent.secure_element.esam_layout import (
    ERROR_LIMIT,
    INDEXES,
    Identity,
    KeyTable,
    Operation,
    State,
)
from edge_agent.virtual.chip import Chip, Refusal
from edge_agent.virtual.esam_memory import Domain, EsamImage
from schemas import esam
from schemas.esam import (
    CHALLENGE_BYTES,
    CONTROL_KEY,
    LENT_KEY,
    SERIAL_BYTES,
    VERSION_KEYS,
    check_value,
    check_values,
    key_of,
)
from schemas.esam_issue import ControlKey, lent
from schemas.keys import MAX_VERSIONS, Purpose
from schemas.secure_messaging import MAC_BYTES, BadProtection, protect
from schemas.suites import RandomBytes, SuiteName, suite
from schemas.suites.suite import BLOCK_BYTES, CARD_ID_BYTES, KEY_BYTES

HEADER_BYTES = 4
_BLOCKS_TO_WRITE = {CONTROL_KEY: 1, VERSION_KEYS: len(Purpose), LENT_KEY: 2}
_BLOCKS_TO_RAISE = {0: 0}
"""How many enciphered blocks a protected command has, by its P1."""


@dataclass(frozen=True)
class _Chosen:
    """What INIT FOR CRYPT derived, for the very next command."""

    index: int
    purpose: Purpose
    version: int
    card_id: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class _Lent:
    """A card's transport key, and which keys may still be written with it."""

    index: int
    version: int
    card_id: bytes
    key: bytes = field(repr=False)
    left: frozenset[Purpose] = frozenset(Purpose)


class EsamOs:
    """An ESAM under power. `write` replaces the non-volatile image; it may raise."""

    def __init__(
        self, image: EsamImage, write: Callable[[EsamImage], None], random: RandomBytes
    ) -> None:
        self._image = image
        self._write_image = write
        self._random = random
        self._suite = suite(image.suite)
        self._selected = False
        self._challenge: bytes | None = None
        self._chosen: _Chosen | None = None
        self._lent: _Lent | None = None

    def respond(self, apdu: bytes) -> Response:
        """The response to one command APDU."""
        chosen, self._chosen = self._chosen, None  # good for the very next command only
        try:
            command = Command.decode(apdu)
            return Response(self._execute(command, chosen), StatusWord.OK.value)
        except MalformedApdu:
            return Response(b"", StatusWord.WRONG_LENGTH.value)
        except Refusal as refusal:
            return Response(b"", refusal.sw)

    def _execute(self, command: Command, chosen: _Chosen | None) -> bytes:
        kind = (command.cla, command.ins)
        if kind == (layout.CLA_ISO, layout.SELECT):
            return self._select(command)
        if command.cla not in (layout.CLA_ISO, layout.CLA_COS, layout.CLA_COS_SECURE):
            raise Refusal(StatusWord.UNKNOWN_CLASS)
        if not self._selected:
            raise Refusal(StatusWord.NO_CURRENT_FILE)
        match kind:
            case layout.CLA_ISO, layout.GET_CHALLENGE:
                return self._get_challenge(command)
            case layout.CLA_COS, esam_layout.GET_DATA:
                return self._get_data(command)
            case layout.CLA_COS, esam_layout.INIT_FOR_CRYPT:
                return self._init_for_crypt(command)
            case layout.CLA_COS, esam_layout.CRYPT:
                return self._crypt(command, chosen)
            case esam.CLA_SECURE, (esam.WRITE_KEY | esam.RAISE_FLOOR):
                return self._change(command)
            case layout.CLA_COS, (esam.WRITE_KEY | esam.RAISE_FLOOR):
                raise Refusal(StatusWord.MAC_MISSING)
        raise Refusal(StatusWord.UNKNOWN_INSTRUCTION)

    def _select(self, command: Command) -> bytes:
        self._selected = False
        self._challenge = self._lent = None
        if (command.p1, command.p2) != (0x04, 0x00):
            raise Refusal(StatusWord.WRONG_PARAMETERS)
        if command.data != esam_layout.AID:
            raise Refusal(StatusWord.FILE_NOT_FOUND)
        self._selected = True
        return Identity(self._image.serial, self._image.suite).encode()

    def _get_challenge(self, command: Command) -> bytes:
        if command.p1 or command.p2:
            raise Refusal(StatusWord.WRONG_PARAMETERS)
        if command.data or command.le != CHALLENGE_BYTES:
            raise Refusal(StatusWord.WRONG_LENGTH)
        self._challenge = self._random(CHALLENGE_BYTES)  # the one before is worth nothing now
        return self._challenge

    def _get_data(self, command: Command) -> bytes:
        if command.data:
            raise Refusal(StatusWord.WRONG_LENGTH)
        image = self._image
        if (command.p1, command.p2) == (esam_layout.STATE, 0):
            return State(
                image.serial,
                image.suite,
                image.control_version,
                check_value(self._suite, image.control_key),
                image.errors_left,
            ).encode()
        if command.p1 != esam_layout.KEY_TABLE or command.p2 not in INDEXES:
            raise Refusal(StatusWord.WRONG_PARAMETERS)
        domain = image.domains.get(command.p2, Domain())
        checks = {v: check_values(self._suite, keys) for v, keys in domain.versions.items()}
        return KeyTable(domain.floor, checks).encode()

    def _init_for_crypt(self, command: Command) -> bytes:
        if len(command.data) != 1 + CARD_ID_BYTES:
            raise Refusal(StatusWord.WRONG_LENGTH)
        if command.p1 not in tuple(Purpose):
            raise Refusal(StatusWord.WRONG_PARAMETERS)
        index, card_id, purpose = command.data[0], command.data[1:], Purpose(command.p1)
        key = self._card_key(index, command.p2, purpose, card_id)
        self._chosen = _Chosen(index, purpose, command.p2, card_id, key)
        return b""

    def _card_key(self, index: int, version: int, purpose: Purpose, card_id: bytes) -> bytes:
        keys = self._image.domains.get(index, Domain()).versions.get(version)
        if keys is None:
            raise Refusal(StatusWord.KEY_NOT_FOUND)
        return self._suite.diversify(key_of(keys, purpose), card_id)

    def _crypt(self, command: Command, chosen: _Chosen | None) -> bytes:
        if chosen is None:
            raise Refusal(StatusWord.CONDITIONS_NOT_SATISFIED)
        data, made_for = command.data, chosen.purpose
        match command.p1, command.p2:
            case Operation.ENCIPHER, 0:
                _require(made_for is Purpose.ADMIT, StatusWord.CONDITIONS_NOT_SATISFIED)
                _require(len(data) == BLOCK_BYTES, StatusWord.WRONG_LENGTH)
                return self._suite.encrypt_block(chosen.key, data)
            case Operation.VERIFY, 0:
                _require(made_for is Purpose.AUTH, StatusWord.CONDITIONS_NOT_SATISFIED)
                _require(len(data) == 2 * BLOCK_BYTES, StatusWord.WRONG_LENGTH)
                expected = self._suite.encrypt_block(chosen.key, data[:BLOCK_BYTES])
                _require(hmac.compare_digest(expected, data[BLOCK_BYTES:]), StatusWord.WRONG)
                return b""
            case Operation.PROTECT, 0:
                _require(made_for is Purpose.MAINTAIN, StatusWord.CONDITIONS_NOT_SATISFIED)
                return self._protect(chosen.key, data)
            case Operation.PROTECT_KEY, _:
                return self._protect_key(chosen, command.p2, data)
        raise Refusal(StatusWord.WRONG_PARAMETERS)

    def _protect(self, maintain: bytes, data: bytes) -> bytes:
        header, rest = data[:HEADER_BYTES], data[HEADER_BYTES:]
        challenge, plaintext = rest[:CHALLENGE_BYTES], rest[CHALLENGE_BYTES:]
        _require(len(plaintext) == layout.INFO_BYTES, StatusWord.WRONG_LENGTH)
        updates = header[:2] == bytes((layout.CLA_SECURE, layout.UPDATE_BINARY))
        _require(updates, StatusWord.WRONG_DATA)
        return protect(self._suite, maintain, challenge, header, plaintext)

    def _protect_key(self, chosen: _Chosen, under: int, data: bytes) -> bytes:
        _require(len(data) == 2 * HEADER_BYTES + CHALLENGE_BYTES, StatusWord.WRONG_LENGTH)
        key_header, header = data[:HEADER_BYTES], data[HEADER_BYTES : 2 * HEADER_BYTES]
        # A key for one purpose must not get onto a card as one for another, or of another version.
        _require(
            (key_header[0], key_header[2]) == (layout.KEY_TYPES[chosen.purpose], chosen.version)
            and header[:3] == bytes((layout.CLA_COS_SECURE, layout.WRITE_KEY, 0x01))
            and header[3] & 0xF == chosen.purpose,
            StatusWord.WRONG_DATA,
        )
        if under == esam_layout.UNDER_LENT:
            protecting = self._use_lent(chosen)
        else:
            protecting = self._card_key(chosen.index, under, Purpose.MAINTAIN, chosen.card_id)
        challenge = data[2 * HEADER_BYTES :]
        return protect(self._suite, protecting, challenge, header, key_header + chosen.key)

    def _use_lent(self, chosen: _Chosen) -> bytes:
        lent = self._lent
        if (
            lent is None
            or (lent.index, lent.version, lent.card_id)
            != (chosen.index, chosen.version, chosen.card_id)
            or chosen.purpose not in lent.left
        ):
            raise Refusal(StatusWord.SECURITY_NOT_SATISFIED)
        self._lent = replace(lent, left=lent.left - {chosen.purpose})
        return lent.key

    def _change(self, command: Command) -> bytes:
        """A command of who holds the control key: once for each challenge, right or wrong."""
        challenge, self._challenge = self._challenge, None
        _check_form(command)
        issued = self._image.control_version > 0
        _require(issued or _is_control(command), StatusWord.CONDITIONS_NOT_SATISFIED)
        if challenge is None:
            raise Refusal(StatusWord.CHALLENGE_MISSING)
        if self._image.errors_left == 0:
            raise Refusal(StatusWord.BLOCKED)
        # The try is spent before the MAC is looked at: no loss of power gives one free.
        self._write(replace(self._image, errors_left=self._image.errors_left - 1))
        control = ControlKey(self._suite, self._image.serial, self._image.control_key)
        try:
            blocks = control.open(challenge, command.header, command.data)
        except BadProtection:
            raise Refusal(StatusWord.MAC_WRONG) from None
        proved = replace(self._image, errors_left=ERROR_LIMIT)
        try:
            changed = self._changed(proved, command, blocks)
        except Refusal:
            self._write(proved)
            raise
        self._write(changed)
        return b""

    def _changed(self, image: EsamImage, command: Command, blocks: bytes) -> EsamImage:
        """What a proved command makes of the memory; its form fits, but it may still be refused."""
        version, index = command.p2, command.data[0]
        domain = image.domains.get(index, Domain())
        if command.ins == esam.RAISE_FLOOR:
            _require(version >= domain.floor, StatusWord.CONDITIONS_NOT_SATISFIED)
            return image.with_domain(index, domain.raised_to(version))
        if command.p1 == CONTROL_KEY:
            _require(version > image.control_version, StatusWord.CONDITIONS_NOT_SATISFIED)
            return replace(image, control_key=blocks, control_version=version)
        if command.p1 == LENT_KEY:
            loan = lent(blocks)
            if loan is None:
                raise Refusal(StatusWord.WRONG_DATA)
            self._lent = _Lent(index, version, *loan)  # gone with the power
            return image
        _require(version >= domain.floor, StatusWord.CONDITIONS_NOT_SATISFIED)
        changed = domain.with_keys(version, blocks)
        _require(len(changed.versions) <= MAX_VERSIONS, StatusWord.MEMORY_FULL)
        return image.with_domain(index, changed)

    def _write(self, image: EsamImage) -> None:
        self._write_image(image)
        self._image = image


def _check_form(command: Command) -> None:
    """What is wrong with a protected command before anything is deciphered; costs no try."""
    blocks = _BLOCKS_TO_WRITE if command.ins == esam.WRITE_KEY else _BLOCKS_TO_RAISE
    _require(command.p1 in blocks and command.p2 > 0, StatusWord.WRONG_PARAMETERS)
    length = 1 + blocks[command.p1] * BLOCK_BYTES + MAC_BYTES
    _require(len(command.data) == length, StatusWord.WRONG_LENGTH)
    places = range(1) if _is_control(command) else INDEXES
    _require(command.data[0] in places, StatusWord.WRONG_DATA)


def _is_control(command: Command) -> bool:
    return command.ins == esam.WRITE_KEY and command.p1 == CONTROL_KEY


def _require(met: bool, otherwise: StatusWord) -> None:
    if not met:
        raise Refusal(otherwise)


class VirtualEsam(Chip[EsamImage]):
    """An ESAM as its maker delivers it, blank with a transport key, or as it was left."""

    answer_to_reset = bytes.fromhex("3b87014f53544553414dd4")
    """As ISO/IEC 7816-3 has it for a contact chip with T=1; historical bytes `OSTESAM`."""

    def __init__(
        self,
        path: Path | None,
        suite: SuiteName,
        serial: bytes,
        transport_key: bytes,
        random: RandomBytes,
    ) -> None:
        """The ESAM kept at `path`, made blank if there is none yet.

        Raises BadImage or OSError, ValueError if another ESAM is kept there.
        """
        if len(serial) != SERIAL_BYTES or len(transport_key) != KEY_BYTES:
            raise ValueError("an ESAM has a serial of 8 bytes and a transport key of 16")
        if path is not None and path.exists():
            image = EsamImage.decode(path.read_bytes())
            if (image.suite, image.serial) != (suite, serial):
                raise ValueError(f"{path} is ESAM {image.serial.hex()} of suite {image.suite}")
        else:
            image = EsamImage(suite, serial, transport_key)
        self._random = random
        super().__init__(image, path)

    @classmethod
    def open(cls, path: Path, random: RandomBytes) -> VirtualEsam:
        """The ESAM kept at `path`. Raises BadImage or OSError."""
        image = EsamImage.decode(path.read_bytes())
        return cls(path, image.suite, image.serial, image.control_key, random)

    def _boot(self, image: EsamImage, write: Callable[[EsamImage], None]) -> EsamOs:
        return EsamOs(image, write, self._random)
