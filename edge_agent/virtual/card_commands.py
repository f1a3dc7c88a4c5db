"""The operating system of a virtual CPU card of the PBOC family: what each command does.

One `CardOs` lives from power-on to power-off, so what was proved to it is gone with it. What
differs from a real chip is in docs/card.md. Whatever bytes it is sent, it answers a status word.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace

from edge_agent.card import layout, tlv
from edge_agent.card.apdu import Command, MalformedApdu, Response, StatusWord
from edge_agent.card.layout import FileKind, Right, Slot
from edge_agent.secure_element.port import Purpose
from edge_agent.virtual.card_memory import (
    APPLICATION_OVERHEAD_BYTES,
    Application,
    BinaryFile,
    Image,
    KeyRecord,
)
from edge_agent.virtual.chip import Refusal
from schemas.secure_messaging import BadProtection, pad, unprotect
from schemas.suites import RandomBytes, suite
from schemas.suites.suite import BLOCK_BYTES

MF_NAME = b"1PAY.SYS.DDF01"  # the root's name on PBOC cards
SHORT_SFI = 0x80  # P1 bit 8: the low five bits are an SFI, P2 is the offset
MAX_SFI = 30


class CardOs:
    """A card under power. `write` replaces the non-volatile image; it may raise."""

    def __init__(self, image: Image, write: Callable[[Image], None], random: RandomBytes) -> None:
        self._image = image
        self._write_image = write
        self._random = random
        self._suite = suite(image.suite)
        self._current: int | None = None
        self._current_file: int | None = None
        self._challenge: bytes | None = None
        self._transport_proved = False
        self._admitted: Slot | None = None

    def respond(self, apdu: bytes) -> Response:
        """The response to one command APDU."""
        challenge, self._challenge = self._challenge, None  # good for the very next command only
        try:
            command = Command.decode(apdu)
            return Response(self._execute(command, challenge), StatusWord.OK.value)
        except MalformedApdu:
            return Response(b"", StatusWord.WRONG_LENGTH.value)
        except Refusal as refusal:
            return Response(b"", refusal.sw)

    def _execute(self, command: Command, challenge: bytes | None) -> bytes:  # noqa: PLR0911 a table
        match command.cla, command.ins:
            case layout.CLA_ISO, layout.SELECT:
                return self._select(command)
            case layout.CLA_ISO, layout.GET_CHALLENGE:
                return self._get_challenge(command)
            case layout.CLA_ISO, layout.INTERNAL_AUTHENTICATE:
                return self._internal_authenticate(command)
            case layout.CLA_ISO, layout.EXTERNAL_AUTHENTICATE:
                return self._external_authenticate(command, challenge)
            case layout.CLA_ISO, layout.READ_BINARY:
                return self._read_binary(command)
            case ((layout.CLA_ISO | layout.CLA_SECURE), layout.UPDATE_BINARY):
                return self._update_binary(command, challenge)
            case layout.CLA_COS, layout.CREATE_FILE:
                return self._create_file(command)
            case layout.CLA_COS_SECURE, layout.WRITE_KEY:
                return self._write_key(command, challenge)
            case layout.CLA_COS, layout.WRITE_KEY:
                raise Refusal(StatusWord.MAC_MISSING)
            case layout.CLA_COS, layout.ERASE:
                return self._erase(command)
            case ((layout.CLA_ISO | layout.CLA_SECURE | layout.CLA_COS | layout.CLA_COS_SECURE), _):
                raise Refusal(StatusWord.UNKNOWN_INSTRUCTION)
        raise Refusal(StatusWord.UNKNOWN_CLASS)

    def _select(self, command: Command) -> bytes:
        if command.p2 not in (0x00, 0x0C):
            raise Refusal(StatusWord.WRONG_PARAMETERS)
        if command.p1 == 0x04:
            answer = self._select_name(command.data)
        elif command.p1 == 0x00:
            answer = self._select_id(command.data)
        else:
            raise Refusal(StatusWord.WRONG_PARAMETERS)
        return answer if command.p2 == 0x00 else b""

    def _select_name(self, name: bytes) -> bytes:
        if name == MF_NAME:
            return self._enter(None)
        for file_id, application in self._image.applications.items():
            if application.name == name:
                return self._enter(file_id)
        raise Refusal(StatusWord.FILE_NOT_FOUND)

    def _select_id(self, data: bytes) -> bytes:
        if len(data) not in (0, 2):
            raise Refusal(StatusWord.WRONG_LENGTH)
        file_id = int.from_bytes(data) if data else layout.MF_ID
        if file_id == layout.MF_ID:
            return self._enter(None)
        if file_id in self._image.applications:
            return self._enter(file_id)
        if self._current is not None:
            file = self._application().files.get(file_id)
            if file is not None:
                self._current_file = file_id
                return tlv.encode(tlv.FCI, tlv.encode(0x80, len(file.content).to_bytes(2)))
        raise Refusal(StatusWord.FILE_NOT_FOUND)

    def _enter(self, file_id: int | None) -> bytes:
        self._current, self._current_file, self._admitted = file_id, None, None
        name = MF_NAME if file_id is None else self._image.applications[file_id].name
        return layout.fci(name, self._image.serial)

    def _get_challenge(self, command: Command) -> bytes:
        self._require(command, data=False, parameters=0)
        if command.le not in (layout.TRANSPORT_CHALLENGE_BYTES, layout.CHALLENGE_BYTES):
            raise Refusal(StatusWord.WRONG_LENGTH)
        self._challenge = self._random(command.le)
        return self._challenge

    def _internal_authenticate(self, command: Command) -> bytes:
        if command.p1 != 0:
            raise Refusal(StatusWord.WRONG_PARAMETERS)
        key = self._key(command.p2, Purpose.AUTH)
        self._require_right(key.use, command.p2 >> 4)
        if len(command.data) != BLOCK_BYTES:
            raise Refusal(StatusWord.WRONG_LENGTH)
        return self._suite.encrypt_block(key.key, command.data)

    def _external_authenticate(self, command: Command, challenge: bytes | None) -> bytes:
        if command.p1 != 0:
            raise Refusal(StatusWord.WRONG_PARAMETERS)
        reference = command.p2
        key = self._key(reference, Purpose.ADMIT)
        if len(command.data) != BLOCK_BYTES:
            raise Refusal(StatusWord.WRONG_LENGTH)
        if challenge is None:
            raise Refusal(StatusWord.CHALLENGE_MISSING)
        if key.tries_left == 0:
            raise Refusal(StatusWord.BLOCKED)
        self._allow(reference, False)
        # The try is spent before the comparison: a card torn in between has not given one free.
        missed = key.missed()
        self._put_key(reference, missed)
        block = challenge if len(challenge) == BLOCK_BYTES else pad(challenge)
        if not hmac.compare_digest(self._suite.encrypt_block(key.key, block), command.data):
            raise Refusal(0x63C0 | missed.tries_left)
        self._put_key(reference, key.matched())
        self._allow(reference, True)
        return b""

    def _read_binary(self, command: Command) -> bytes:
        sfi, offset = self._address(command)
        file = self._file(sfi)
        self._require_right(file.read, None)
        if command.data or command.le is None:
            raise Refusal(StatusWord.WRONG_LENGTH)
        if offset >= len(file.content):
            raise Refusal(StatusWord.OFFSET_OUTSIDE)
        return file.content[offset : offset + command.le]

    def _update_binary(self, command: Command, challenge: bytes | None) -> bytes:
        sfi, offset = self._address(command)
        file = self._file(sfi)
        data = command.data
        if file.update is Right.MAINTAIN:
            if command.cla != layout.CLA_SECURE:
                raise Refusal(StatusWord.MAC_MISSING)
            if self._admitted is None:
                raise Refusal(StatusWord.SECURITY_NOT_SATISFIED)
            maintain = self._key(self._admitted.key(Purpose.MAINTAIN), Purpose.MAINTAIN)
            data = self._unprotect(maintain.key, command, challenge)
        elif command.cla == layout.CLA_SECURE:
            raise Refusal(StatusWord.SECURE_MESSAGING_UNSUPPORTED)
        else:
            self._require_right(file.update, None)
        if not data:
            raise Refusal(StatusWord.WRONG_LENGTH)
        if offset + len(data) > len(file.content):
            raise Refusal(StatusWord.OFFSET_OUTSIDE)
        content = file.content[:offset] + data + file.content[offset + len(data) :]
        application = self._application()
        self._put(
            replace(application, files={**application.files, sfi: replace(file, content=content)})
        )
        return b""

    def _create_file(self, command: Command) -> bytes:
        if len(command.data) < 3:
            raise Refusal(StatusWord.WRONG_LENGTH)
        kind, size, rest = command.data[0], int.from_bytes(command.data[1:3]), command.data[3:]
        file_id = command.p1 << 8 | command.p2
        if kind == FileKind.APPLICATION:
            self._create_application(file_id, size, rest)
        elif kind == FileKind.KEYS:
            self._create_key_file(size, rest)
        elif kind == FileKind.BINARY:
            self._create_binary(file_id, size, rest)
        else:
            raise Refusal(StatusWord.WRONG_DATA)
        return b""

    def _create_application(self, file_id: int, size: int, rest: bytes) -> None:
        if self._current is not None:
            raise Refusal(StatusWord.CONDITIONS_NOT_SATISFIED)
        self._require_right(Right.TRANSPORT, None)
        create, erase, name = _right(rest, 0), _right(rest, 1), rest[2:]
        if not 5 <= len(name) <= layout.AID_BYTES or file_id == layout.MF_ID:
            raise Refusal(StatusWord.WRONG_DATA)
        names = {application.name for application in self._image.applications.values()}
        if file_id in self._image.applications or name in names | {MF_NAME}:
            raise Refusal(StatusWord.FILE_EXISTS)
        if size + APPLICATION_OVERHEAD_BYTES > self._image.free:
            raise Refusal(StatusWord.MEMORY_FULL)
        self._write(self._image.with_application(file_id, Application(name, size, create, erase)))

    def _create_key_file(self, size: int, rest: bytes) -> None:
        application = self._creating()
        if rest:
            raise Refusal(StatusWord.WRONG_DATA)
        if application.key_space is not None:
            raise Refusal(StatusWord.FILE_EXISTS)
        if size > application.free:
            raise Refusal(StatusWord.MEMORY_FULL)
        self._put(replace(application, key_space=size))

    def _create_binary(self, file_id: int, size: int, rest: bytes) -> None:
        application = self._creating()
        read, update = _right(rest, 0), _right(rest, 1)
        if not 1 <= file_id <= MAX_SFI or len(rest) != 2:
            raise Refusal(StatusWord.WRONG_DATA)
        if file_id in application.files:
            raise Refusal(StatusWord.FILE_EXISTS)
        if size > application.free:
            raise Refusal(StatusWord.MEMORY_FULL)
        file = BinaryFile(bytes(size), read, update)
        self._put(replace(application, files={**application.files, file_id: file}))

    def _creating(self) -> Application:
        application = self._application()
        self._require_right(application.create, None)
        return application

    def _write_key(self, command: Command, challenge: bytes | None) -> bytes:
        application = self._application()
        reference = command.p2
        if command.p1 != 0x01 or reference >> 4 not in tuple(Slot):
            raise Refusal(StatusWord.WRONG_PARAMETERS)
        record = self._unprotect(self._writing_key(Slot(reference >> 4)), command, challenge)
        if len(record) != layout.KEY_RECORD_BYTES:
            raise Refusal(StatusWord.WRONG_DATA)
        key_type, _, version, tries = record[:4]
        purposes = {layout.KEY_TYPES[purpose]: purpose for purpose in Purpose}
        if purposes.get(key_type) != reference & 0xF or not version or not 1 <= tries <= 15:
            raise Refusal(StatusWord.WRONG_DATA)
        if application.key_space is None:
            raise Refusal(StatusWord.CONDITIONS_NOT_SATISFIED)
        count = len(application.keys.keys() | {reference})
        if count * layout.KEY_RECORD_BYTES > application.key_space:
            raise Refusal(StatusWord.MEMORY_FULL)
        self._put_key(
            reference, KeyRecord(key_type, _right(record, 1), version, tries, tries, record[4:])
        )
        return b""

    def _writing_key(self, slot: Slot) -> bytes:
        """What protects a key write: the transport key, or `maintain` of the *other* slot."""
        if self._transport_proved:
            return self._image.transport.key
        if self._admitted is not slot.other:
            raise Refusal(StatusWord.SECURITY_NOT_SATISFIED)
        return self._key(slot.other.key(Purpose.MAINTAIN), Purpose.MAINTAIN).key

    def _erase(self, command: Command) -> bytes:
        self._require(command, data=False, parameters=0)
        if self._current is None:
            self._require_right(Right.TRANSPORT, None)
            kept: dict[int, Application] = {}
        else:
            self._require_right(self._application().erase, None)
            kept = {i: a for i, a in self._image.applications.items() if i != self._current}
        self._write(replace(self._image, applications=kept))
        self._enter(None)
        return b""

    def _unprotect(self, key: bytes, command: Command, challenge: bytes | None) -> bytes:
        if challenge is None or len(challenge) != layout.CHALLENGE_BYTES:
            raise Refusal(StatusWord.CHALLENGE_MISSING)
        try:
            return unprotect(self._suite, key, challenge, command.header, command.data)
        except BadProtection:
            raise Refusal(StatusWord.MAC_WRONG) from None

    def _require(self, command: Command, *, data: bool, parameters: int) -> None:
        if command.p1 << 8 | command.p2 != parameters:
            raise Refusal(StatusWord.WRONG_PARAMETERS)
        if bool(command.data) != data:
            raise Refusal(StatusWord.WRONG_LENGTH)

    def _require_right(self, right: Right, slot: int | None) -> None:
        """Refuse unless what `right` asks for has been proved; `slot` is the used key's own."""
        admitted = self._admitted is not None and slot in (None, self._admitted)
        proved = {Right.ALWAYS: True, Right.TRANSPORT: self._transport_proved}
        if not proved.get(right, admitted and right is Right.ADMIT):
            raise Refusal(StatusWord.SECURITY_NOT_SATISFIED)

    def _allow(self, reference: int, proved: bool) -> None:
        if self._current is None:
            self._transport_proved = proved
        else:
            self._admitted = Slot(reference >> 4) if proved else None

    def _application(self) -> Application:
        if self._current is None:
            raise Refusal(StatusWord.NO_CURRENT_FILE)
        return self._image.applications[self._current]

    def _address(self, command: Command) -> tuple[int, int]:
        if command.p1 & SHORT_SFI:
            if command.p1 & 0x60:
                raise Refusal(StatusWord.WRONG_PARAMETERS)
            self._current_file = command.p1 & 0x1F
            return self._current_file, command.p2
        if self._current_file is None:
            raise Refusal(StatusWord.NO_CURRENT_FILE)
        return self._current_file, command.p1 << 8 | command.p2

    def _file(self, sfi: int) -> BinaryFile:
        file = self._application().files.get(sfi)
        if file is None:
            raise Refusal(StatusWord.FILE_NOT_FOUND)
        return file

    def _key(self, reference: int, purpose: Purpose) -> KeyRecord:
        if self._current is None:
            key = self._image.transport if reference == layout.TRANSPORT_KEY else None
        else:
            key = self._application().keys.get(reference)
        if key is None:
            raise Refusal(StatusWord.KEY_NOT_FOUND)
        if key.type != layout.KEY_TYPES[purpose]:  # each key does one thing
            raise Refusal(StatusWord.CONDITIONS_NOT_SATISFIED)
        return key

    def _put_key(self, reference: int, key: KeyRecord) -> None:
        if self._current is None:
            self._write(replace(self._image, transport=key))
        else:
            application = self._application()
            self._put(replace(application, keys={**application.keys, reference: key}))

    def _put(self, application: Application) -> None:
        assert self._current is not None
        self._write(self._image.with_application(self._current, application))

    def _write(self, image: Image) -> None:
        self._write_image(image)
        self._image = image


def _right(data: bytes, at: int) -> Right:
    try:
        return Right(data[at])
    except (IndexError, ValueError):
        raise Refusal(StatusWord.WRONG_DATA) from None
