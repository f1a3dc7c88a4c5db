"""The master keys in a PKCS #11 token (OASIS PKCS #11 v2.40), for the suite `intl`.

A version is one AES-256 key that the token makes and never shows (CKA_EXTRACTABLE false). The
domain's keys are derived from it inside (CKM_AES_ECB_ENCRYPT_DATA), live for one session, and leave
wrapped alone (CKM_AES_CBC), by a session key derived inside from the ESAM's control key. So none of
them is ever in this process's memory. What that does not stop: who has the PIN can ask the token
for whatever we ask it. docs/keys.md has the whole of it.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, SecretKey, Session

from schemas.esam import CHECK_VALUE_BYTES, KeyPlace, bound_to
from schemas.esam_issue import lent_blocks, lent_header
from schemas.keys import CheckValues, Purpose
from schemas.secure_messaging import MAC_BYTES
from schemas.suites import RandomBytes, SuiteName
from schemas.suites.suite import BLOCK_BYTES, KEY_BYTES
from server.keys.home import (
    HomeLocked,
    HomeName,
    HomeUnavailable,
    KeysError,
    LoanPlace,
    NewVersion,
    Source,
)
from server.site import Site

PIN_ENV = "OSTIARY_PKCS11_PIN"
PIN_FILE_ENV = "OSTIARY_PKCS11_PIN_FILE"
_ID_BYTES = 16
_ZERO = bytes(BLOCK_BYTES)
_NEEDED = {
    Mechanism.AES_KEY_GEN: MechanismFlag.GENERATE,
    Mechanism.AES_ECB: MechanismFlag.ENCRYPT,
    Mechanism.AES_CBC: MechanismFlag.WRAP,
    Mechanism.AES_CMAC: MechanismFlag.SIGN,
    Mechanism.AES_ECB_ENCRYPT_DATA: MechanismFlag.DERIVE,
}
_SECRET = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}


class TokenHome:
    """Each call opens a session of its own: what it derives is gone when the session ends."""

    name: HomeName = "pkcs11"

    def __init__(self, site: str, token: pkcs11.Token, pin: str, random: RandomBytes) -> None:
        self._site, self._token, self._pin, self._random = site, token, pin, random

    def open(self) -> None:
        """A session with the PIN."""
        with self._session():
            pass

    def new_version(self, domain: str, suite: SuiteName, version: int) -> NewVersion:
        """A key that the token makes.

        One that is there under this name was made before a stop, or belongs to rows that a backup
        of the database does not have: it is taken, not replaced.
        """
        _refuse_sm4(suite, f"key domain {domain}")
        label = f"ostiary/{self._site}/domain/{domain}/{version}"
        with self._session() as session:
            master = _by_label(session, label)
            if master is None:
                master = session.generate_key(
                    KeyType.AES,
                    256,
                    id=self._random(_ID_BYTES),
                    label=label,
                    store=True,
                    capabilities=MechanismFlag.DERIVE,
                    template={**_SECRET, Attribute.MODIFIABLE: False},
                )
            return NewVersion(bytes(master.id), _check_values(_domain_keys(master)))

    def keep_control_key(self, suite: SuiteName, serial: bytes, key: bytes) -> bytes:
        """Put it into the token, beside an older one of this ESAM until that is forgotten."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a control key is {KEY_BYTES} bytes, not {len(key)}")
        _refuse_sm4(suite, f"ESAM {serial.hex()}")
        label = f"ostiary/{self._site}/esam/{serial.hex()}"
        with self._session() as session:
            made = session.create_object(
                {
                    **_SECRET,
                    Attribute.CLASS: ObjectClass.SECRET_KEY,
                    Attribute.KEY_TYPE: KeyType.AES,
                    Attribute.VALUE: key,
                    Attribute.TOKEN: True,
                    Attribute.ID: self._random(_ID_BYTES),
                    Attribute.LABEL: label,
                    Attribute.DERIVE: True,
                    Attribute.ENCRYPT: True,
                    Attribute.DECRYPT: False,
                    Attribute.SIGN: False,
                    Attribute.VERIFY: False,
                    Attribute.WRAP: False,
                    Attribute.UNWRAP: False,
                    Attribute.MODIFIABLE: False,
                }
            )
            return bytes(made[Attribute.ID])

    def forget_control_key(self, control: bytes) -> None:
        """Remove it from the token."""
        self._remove(control)

    def package(
        self, source: Source, control: bytes, challenge: bytes, place: KeyPlace
    ) -> tuple[bytes, CheckValues]:
        """The three keys, wrapped inside the token, and their check values.

        Each is wrapped by itself, chained to the one before: together that is one CBC over all.
        """
        with self._session() as session:
            what = f"version {source.version} of key domain {source.domain}"
            keys = _domain_keys(_by_id(session, source.stored, what))
            control_key = _control(session, control, place.serial)
            wrapping = _session_key(control_key, 1, challenge, MechanismFlag.WRAP)
            wrapped, before = b"", _ZERO
            for key in keys.values():
                before = wrapping.wrap_key(key, mechanism=Mechanism.AES_CBC, mechanism_param=before)
                wrapped += before
            body = _authenticated(control_key, challenge, place.bound, place.index, wrapped)
            return body, _check_values(keys)

    def floor(self, suite: SuiteName, control: bytes, challenge: bytes, place: KeyPlace) -> bytes:
        """The MAC that the ESAM asks for before it forgets."""
        _refuse_sm4(suite, f"ESAM {place.serial.hex()}")
        with self._session() as session:
            control_key = _control(session, control, place.serial)
            return _authenticated(control_key, challenge, place.bound, place.index, b"")

    def lend(
        self,
        suite: SuiteName,
        control: bytes,
        challenge: bytes,
        place: LoanPlace,
        transport_key: bytes,
    ) -> bytes:
        """The card and its key, enciphered inside the token: CBC, a block at a time."""
        _refuse_sm4(suite, f"ESAM {place.serial.hex()}")
        first, second = lent_blocks(place.card_id, transport_key)
        bound = bound_to(lent_header(place.version), place.serial, place.index)
        with self._session() as session:
            control_key = _control(session, control, place.serial)
            key = _session_key(control_key, 1, challenge, MechanismFlag.ENCRYPT)
            before = _block(key, first)
            mixed = bytes(a ^ b for a, b in zip(before, second, strict=True))
            enciphered = before + _block(key, mixed)
            return _authenticated(control_key, challenge, bound, place.index, enciphered)

    def destroy(self, source: Source) -> None:
        """Remove the key from the token."""
        self._remove(source.stored)

    def _remove(self, id: bytes) -> None:
        with self._session() as session:
            for found in list(session.get_objects({Attribute.ID: id})):
                found.destroy()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            with self._token.open(user_pin=self._pin, rw=True) as session:
                yield session
        except pkcs11.PKCS11Error as error:
            locked = isinstance(error, pkcs11.PinIncorrect | pkcs11.PinLocked)
            refusal = HomeLocked if locked else HomeUnavailable
            raise refusal(_told(error, self._token.label)) from None


def open_token(
    site: Site, module: str, label: str, environ: Mapping[str, str], random: RandomBytes
) -> TokenHome:
    """The home in the token of this label. Raises HomeUnavailable."""
    pin = _pin(environ)
    try:
        token = pkcs11.lib(module).get_token(token_label=label)
        has = token.slot.get_mechanisms()
        lacking = [
            mechanism.name
            for mechanism, use in _NEEDED.items()
            if mechanism not in has or not token.slot.get_mechanism_info(mechanism).flags & use
        ]
    except (pkcs11.PKCS11Error, RuntimeError) as error:
        raise HomeUnavailable(f"{module}: {_told(error, label)}") from None
    if lacking:
        raise HomeUnavailable(
            f"the token {label} lacks {', '.join(lacking)}: it can't keep keys of Ostiary"
        )
    home = TokenHome(site.name, token, pin, random)
    home.open()  # a wrong PIN shows now, once, and not at a door's first question
    return home


def _refuse_sm4(suite: SuiteName, what: str) -> None:
    if suite != "intl":
        raise KeysError(
            f"{what} is of suite {suite}, and PKCS #11 has no SM4: its keys can't be in a token."
            ' Set key_home = "sealed" for it; what is in the token stays there'
        )


def _pin(environ: Mapping[str, str]) -> str:
    if pin := environ.get(PIN_ENV):
        return pin
    if not (named := environ.get(PIN_FILE_ENV)):
        raise HomeUnavailable(f"the token has a PIN: set {PIN_ENV}, or {PIN_FILE_ENV} to its file")
    file = Path(named)
    try:
        mode, pin = stat.S_IMODE(file.stat().st_mode), file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise HomeUnavailable(f"{file}: {error}") from None
    if mode & 0o077:
        raise HomeUnavailable(f"{file} has mode {mode:04o}: others may read it. `chmod 600 {file}`")
    return pin


def _told(error: Exception, label: str) -> str:
    """An error's name: that is all that PKCS #11 gives, and it has no secret in it."""
    name = type(error).__name__
    hint = {
        "PinIncorrect": f"the PIN is wrong; tokens lock after a few: check {PIN_ENV}",
        "PinLocked": "the PIN is locked: its security officer must set a new one",
        "NoSuchToken": "no such token: check pkcs11_token, and that it is plugged in",
    }.get(name, str(error) or "see the token's own log")
    return f"token {label}: {name}: {hint}"


def _by_label(session: Session, label: str) -> SecretKey | None:
    found = session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: label})
    return next(iter(list(found)), None)


def _by_id(session: Session, id: bytes, what: str) -> SecretKey:
    found = list(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.ID: id}))
    if not found:
        raise HomeUnavailable(f"the token lacks {what}: restore the token from its own backup")
    return found[0]


def _control(session: Session, control: bytes, serial: bytes) -> SecretKey:
    return _by_id(session, control, f"the control key of ESAM {serial.hex()}")


def _domain_keys(master: SecretKey) -> dict[Purpose, SecretKey]:
    """The keys can be wrapped, and their check values asked for, in this session."""
    return {
        purpose: _derived(
            master,
            b"ostiary domain " + bytes((purpose,)),
            MechanismFlag.ENCRYPT,
            extractable=True,
        )
        for purpose in Purpose
    }


def _session_key(control: SecretKey, label: int, challenge: bytes, use: MechanismFlag) -> SecretKey:
    """CMAC(control, label || challenge) as a key that stays inside (RFC 4493, 2.4).

    Two blocks: the last is a derivation, so its result is never seen; what is seen before it is the
    encipherment of a block that is no one's key.
    """
    message = bytes((label,)) + challenge
    first, last = message[:BLOCK_BYTES], message[BLOCK_BYTES:]
    subkey = _doubled(_doubled(_block(control, _ZERO)))
    padded = (last + b"\x80").ljust(BLOCK_BYTES, b"\x00")
    mixed = bytes(a ^ b ^ c for a, b, c in zip(_block(control, first), padded, subkey, strict=True))
    return _derived(control, mixed, use, extractable=False)


def _derived(base: SecretKey, data: bytes, use: MechanismFlag, *, extractable: bool) -> SecretKey:
    derived = base.derive_key(
        KeyType.AES,
        KEY_BYTES * 8,
        store=False,
        capabilities=use,
        mechanism=Mechanism.AES_ECB_ENCRYPT_DATA,
        mechanism_param=data,
        template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: extractable},
    )
    assert isinstance(derived, SecretKey)
    return derived


def _authenticated(
    control: SecretKey, challenge: bytes, bound: bytes, index: int, enciphered: bytes
) -> bytes:
    key = _session_key(control, 2, challenge, MechanismFlag.SIGN)
    lc = bytes((len(enciphered) + MAC_BYTES,))
    mac = bytes(key.sign(bound + lc + enciphered, mechanism=Mechanism.AES_CMAC))[:MAC_BYTES]
    return bytes((index,)) + enciphered + mac


def _check_values(keys: Mapping[Purpose, SecretKey]) -> CheckValues:
    return CheckValues(
        **{p.name.lower(): _block(key, _ZERO)[:CHECK_VALUE_BYTES].hex() for p, key in keys.items()}
    )


def _block(key: SecretKey, block: bytes) -> bytes:
    return bytes(key.encrypt(block, mechanism=Mechanism.AES_ECB))


def _doubled(block: bytes) -> bytes:
    """Times x in GF(2^128) (RFC 4493, 2.3)."""
    shifted = int.from_bytes(block) << 1
    return (shifted & (2**128 - 1) ^ (0x87 if shifted >> 128 else 0)).to_bytes(BLOCK_BYTES)
