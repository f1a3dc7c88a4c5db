"""The key-encryption key (KEK) that seals a folder of private keys.

It comes from, in this order: the environment (OSTIARY_KEK, 64 hex digits), a file named there
(OSTIARY_KEK_FILE), the file `kek` in the folder, or a passphrase. A passphrase is never stored;
`kek.salt` in the folder says that there is one.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from schemas.sealed import KEK_BYTES
from schemas.suites import RandomBytes
from server.files import write_durably

KEK_ENV = "OSTIARY_KEK"
KEK_FILE_ENV = "OSTIARY_KEK_FILE"
KEK_FILE = "kek"
SALT_FILE = "kek.salt"
_SALT_BYTES = 16
_SCRYPT = {"n": 2**17, "r": 8, "p": 1}
"""128 MiB and some 0.4 s a guess: what OWASP asks for where a passphrase guards a file."""
MIN_PASSPHRASE = 12


class SiteError(Exception):
    """What is wrong with a site directory, and what to do."""


def has_passphrase(folder: Path) -> bool:
    """Whether the keys in `folder` are sealed by a passphrase."""
    return (folder / SALT_FILE).exists()


def check_passphrase(passphrase: str) -> None:
    """Raise SiteError for one that is too short to guard a file."""
    if len(passphrase) < MIN_PASSPHRASE:
        raise SiteError(f"a passphrase here has at least {MIN_PASSPHRASE} characters: choose more")


def make_kek(folder: Path, random: RandomBytes, passphrase: str | None = None) -> bytes:
    """A new KEK for `folder`: from `passphrase`, or drawn and written to `kek`."""
    if passphrase is None:
        kek = random(KEK_BYTES)
        write_durably(folder / KEK_FILE, kek.hex().encode() + b"\n")
        return kek
    check_passphrase(passphrase)
    write_durably(folder / SALT_FILE, random(_SALT_BYTES).hex().encode() + b"\n")
    return kek_of_passphrase(folder, passphrase)


def kek_of_passphrase(folder: Path, passphrase: str) -> bytes:
    """What `passphrase` comes to in this folder; a wrong one shows when a key is unsealed.

    Raises SiteError.
    """
    file = folder / SALT_FILE
    try:
        salt = bytes.fromhex(file.read_text().strip())
    except FileNotFoundError:
        raise SiteError(
            f"the keys in {folder} are not sealed by a passphrase: leave out --ask-kek"
        ) from None
    except (OSError, ValueError) as error:
        raise SiteError(f"{file}: {error}; restore it from a backup") from None
    return Scrypt(salt, KEK_BYTES, **_SCRYPT).derive(passphrase.encode())


def read_kek(folder: Path, environ: Mapping[str, str]) -> bytes:
    """The KEK from OSTIARY_KEK (hex), the file OSTIARY_KEK_FILE, or `kek` in `folder`.

    Raises SiteError, also if others than the owner may read the file.
    """
    if KEK_ENV in environ:
        where, text = KEK_ENV, environ[KEK_ENV]
    else:
        file = Path(environ.get(KEK_FILE_ENV) or folder / KEK_FILE)
        where = str(file)
        if KEK_FILE_ENV not in environ and has_passphrase(folder) and not file.exists():
            raise SiteError(
                f"the keys in {folder} are sealed by a passphrase: use --ask-kek, or set {KEK_ENV}"
            )
        text = _private_text(file)
    try:
        kek = bytes.fromhex(text.strip())
    except ValueError:
        kek = b""
    if len(kek) != KEK_BYTES:
        raise SiteError(f"the key-encryption key in {where} is not {KEK_BYTES} bytes in hex")
    return kek


def _private_text(file: Path) -> str:
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SiteError(
            f"no key-encryption key: {file}: {why}; restore the file, or set "
            f"{KEK_ENV} or {KEK_FILE_ENV}"
        ) from None
    if mode & ~0o600:
        raise SiteError(
            f"{file} has mode {mode:04o}: others may read it. If nobody has, `chmod 600 {file}`; "
            "if someone may have, rotate the keys of all roles (`ostiary root rotate`)"
        )
    return text
