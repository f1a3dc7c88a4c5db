"""A site on disk: its root document, its sealed keys, its settings, its database.

<dir>/root.json            who may sign what; agents pin it (public)
<dir>/server.toml          settings
<dir>/kek                  key-encryption key, 0600, unless it is kept elsewhere
<dir>/keys/policy.sealed   signs policies
<dir>/keys/online.sealed   signs acknowledgements and the server's own events
<dir>/ostiary.db           events
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from schemas.envelope import Signer
from schemas.errors import SchemaError, first_problem
from schemas.root import ROLE_PURPOSES, Root
from schemas.sealed import KEK_BYTES, seal_secret, unseal_secret
from schemas.suites import RandomBytes, Suite, SuiteName, suite
from server.config import default_toml

KEK_ENV = "OSTIARY_KEK"
KEK_FILE_ENV = "OSTIARY_KEK_FILE"


class SiteError(Exception):
    """What is wrong with a site directory, and what to do."""


@dataclass(frozen=True)
class Site:
    """A site directory that was read and is whole."""

    path: Path
    root: Root

    @property
    def name(self) -> str:
        """The site's name."""
        return self.root.site

    @property
    def suite(self) -> Suite:
        """The site's algorithm suite."""
        return suite(self.root.suite)

    @property
    def database(self) -> Path:
        """Where events are, unless server.toml says otherwise."""
        return self.path / "ostiary.db"

    @property
    def config_file(self) -> Path:
        """The settings."""
        return self.path / "server.toml"

    def signer(self, role: str, environ: Mapping[str, str]) -> Signer:
        """The signer of a role, unsealed. Raises SiteError."""
        file = self.path / "keys" / f"{role}.sealed"
        kek = read_kek(self.path, environ)
        try:
            scalar = unseal_secret(kek, file.read_bytes(), _context(self.name, role))
            signer = Signer.of(self.suite.private_key(scalar))
        except FileNotFoundError:
            raise SiteError(f"{file} is missing: restore it from a backup") from None
        except OSError as error:
            raise SiteError(f"{file}: {error.strerror}; run this as the site's user") from None
        except SchemaError as error:
            raise SiteError(
                f"{file} can't be opened: {error}; check {KEK_ENV} or {self.path / 'kek'}"
            ) from None
        if signer.keyid not in self.root.roles.get(role, ()):
            raise SiteError(
                f"{file} holds a key that root.json does not name for the role {role}: "
                "one of the two is of another site"
            )
        return signer


def open_site(path: Path) -> Site:
    """Read a site directory. Raises SiteError."""
    file = path / "root.json"
    try:
        root = Root.model_validate_json(file.read_bytes())
        root.key_ring()
    except FileNotFoundError:
        raise SiteError(
            f"{path.absolute()} is not a site directory (no root.json): make one with "
            "`ostiary init --site NAME`, or point --site-dir at yours"
        ) from None
    except OSError as error:
        raise SiteError(f"{file}: {error.strerror}; run this as the site's user") from None
    except (SchemaError, ValueError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise SiteError(f"{file} is damaged: {why}; restore it from a backup") from None
    return Site(path, root)


def create_site(
    path: Path, name: str, suite_name: SuiteName, random: RandomBytes, environ: Mapping[str, str]
) -> Site:
    """Make a new site; `root.json` comes last, so a site is there whole or not at all.

    Raises SiteError if the directory holds anything already: keys are never overwritten.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SiteError(f"{path} is not empty: choose another directory; nothing was changed")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)  # whoever reads the database knows who went where, and when
    keys_dir = path / "keys"
    keys_dir.mkdir(mode=0o700)
    if KEK_ENV not in environ and KEK_FILE_ENV not in environ:
        write_durably(path / "kek", random(KEK_BYTES).hex().encode() + b"\n")
    kek = read_kek(path, environ)
    algorithms = suite(suite_name)
    keys: dict[str, str] = {}
    roles: dict[str, list[str]] = {}
    for role in ROLE_PURPOSES:
        key = algorithms.generate(random)
        signer = Signer.of(key)
        keys[signer.keyid] = key.public.point.hex()
        roles[role] = [signer.keyid]
        sealed = seal_secret(kek, key.scalar, _context(name, role), random)
        write_durably(keys_dir / f"{role}.sealed", sealed)
    write_durably(path / "server.toml", default_toml().encode(), mode=0o644)
    root = Root(site=name, version=1, suite=suite_name, keys=keys, roles=roles)
    write_durably(path / "root.json", root.model_dump_json(indent=2).encode() + b"\n", mode=0o644)
    return Site(path, root)


def read_kek(path: Path, environ: Mapping[str, str]) -> bytes:
    """The key-encryption key: OSTIARY_KEK (hex), the file OSTIARY_KEK_FILE, or `kek`."""
    if KEK_ENV in environ:
        where, text = KEK_ENV, environ[KEK_ENV]
    else:
        file = Path(environ.get(KEK_FILE_ENV) or path / "kek")
        where = str(file)
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise SiteError(
                f"no key-encryption key: {file}: {why}; restore the file, or set "
                f"{KEK_ENV} or {KEK_FILE_ENV}"
            ) from None
    try:
        kek = bytes.fromhex(text.strip())
    except ValueError:
        kek = b""
    if len(kek) != KEK_BYTES:
        raise SiteError(f"the key-encryption key in {where} is not {KEK_BYTES} bytes in hex")
    return kek


def write_durably(file: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put `data` at `file`, whole or not at all, also if the power fails now."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def only_server(path: Path) -> Iterator[None]:
    """Hold the site for one `serve`: events have one writer. Raises SiteError."""
    try:
        fd = os.open(path / "serve.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SiteError(
            f"{path / 'serve.lock'}: {error.strerror}; run this as the site's user"
        ) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SiteError(
                f"another `ostiary serve` runs on {path}: stop it first, or use another site"
            ) from None
        yield
    finally:
        os.close(fd)


def _context(site: str, role: str) -> str:
    return f"{site}/{role}"
