"""Small private files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from schemas.sealed import KEK_BYTES
from schemas.suites import RandomBytes


class UnsafeKeyFile(Exception):
    """A key file others can read, or that holds no key; the message says what to do."""


def write_private(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Put `content` at `path`, durable and readable by its owner alone.

    A crash at any moment leaves the old content or the new. Raises OSError; FileExistsError if
    something is there that is not to be replaced.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # a leftover of an earlier crash may have another mode
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
            temporary.unlink()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)  # makes the rename itself durable
    finally:
        os.close(directory)


def read_kek(path: Path, random: RandomBytes) -> bytes:
    """The key-encryption key at `path`, made there at first use.

    Raises UnsafeKeyFile if others may read the file or it is not 32 bytes, OSError if it can't be
    read or made.
    """
    if not path.exists():
        with suppress(FileExistsError):  # another process made it meanwhile: then that one counts
            write_private(path, random(KEK_BYTES), replace=False)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise UnsafeKeyFile(
            f"{path} has mode {mode:04o}: others can read it. If nobody has, chmod 600 it"
        )
    kek = path.read_bytes()
    if len(kek) != KEK_BYTES:
        raise UnsafeKeyFile(
            f"{path} is {len(kek)} bytes, a sealing key is {KEK_BYTES}: restore it from a backup;"
            " without it what was sealed is lost"
        )
    return kek
