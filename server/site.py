"""A site on disk: its root documents, its sealed keys, its settings, its database.

<dir>/root.json             who may sign what, signed by the root keys; agents pin it (public)
<dir>/roots/<n>.json        every version of it, for agents that are behind
<dir>/server.toml           settings
<dir>/kek                   key-encryption key, 0600, unless it is kept elsewhere (`server.kek`)
<dir>/keys/<role>.sealed    what the server signs with: policy, revoke, keys, online
<dir>/keys/ca.sealed        the key of the authority that issues TLS certificates
<dir>/ca.pem                that authority's certificate (public; also in root.json)
<dir>/ostiary.db            events and everything else

The root keys are not here: `server.root_keys`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from schemas.envelope import Signer, TrustedKey
from schemas.errors import SchemaError
from schemas.root import ROLE_PURPOSES, Role, RoleName, Root, open_first_root, open_next_root
from schemas.sealed import seal_secret, unseal_secret
from schemas.statement import sign_statement
from schemas.suites import RandomBytes, Suite, SuiteName, suite
from server.clock import SystemClock
from server.config import default_toml
from server.files import write_durably as write_durably  # noqa: PLC0414 also read from here
from server.kek import KEK_ENV, KEK_FILE_ENV, SiteError, check_passphrase, make_kek, read_kek
from server.pki import Authority, open_authority
from server.root_keys import check_free, default_place, folders_of, write_root_key

__all__ = ["Site", "SiteError", "create_site", "only_server", "open_site", "write_durably"]

SERVER_ROLES: tuple[RoleName, ...] = ("policy", "revoke", "keys", "online")
"""The roles whose keys the server holds."""


@dataclass(frozen=True)
class RootKeys:
    """How many root keys a new site gets, how many must sign, and where they go."""

    place: Path
    count: int = 1
    threshold: int = 1
    passphrases: tuple[str, ...] = field(default=(), repr=False)
    """One a key; none: each folder has a `kek` file of its own."""


@dataclass(frozen=True)
class Site:
    """A site directory that was read and is whole."""

    path: Path
    root: Root
    root_envelope: bytes
    """The newest root document as its keys signed it."""

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
        names: dict[str, tuple[str, ...]] = {r: held.keyids for r, held in self.root.roles.items()}
        file = self.path / "keys" / f"{role}.sealed"
        signer = self._signer(file, role, environ)
        waiting = next_key(self.path, role)
        if signer.keyid not in names.get(role, ()) and waiting.exists():
            # a rotation was published, and the power failed before the new key took its place
            signer = self._signer(waiting, role, environ)
        if signer.keyid not in names.get(role, ()):
            raise SiteError(
                f"{file} holds a key that root.json does not name for the role {role}: "
                "one of the two is of another site, or of another time"
            )
        return signer

    def _signer(self, file: Path, role: str, environ: Mapping[str, str]) -> Signer:
        return Signer.of(self.suite.private_key(self._unsealed(file, role, environ)))

    def authority(self, environ: Mapping[str, str]) -> Authority:
        """Who issues the site's TLS certificates. Raises SiteError."""
        scalar = self._unsealed(self.path / "keys" / "ca.sealed", "ca", environ)
        file = self.path / "ca.pem"
        try:
            authority = open_authority(file.read_text(), scalar)
        except (OSError, ValueError) as error:
            raise SiteError(f"{file}: {error}; restore it from a backup") from None
        if authority.pem not in self.root.authorities:
            raise SiteError(
                f"{file} is not an authority that root.json names: restore the one that is"
            )
        return authority

    def newest_root_version(self) -> int:
        """The newest version on disk now: above `root.version` after a rotation. Cheap."""
        return max(
            (int(file.stem) for file in (self.path / "roots").glob("[1-9]*.json")), default=1
        )

    def root_after(self, version: int) -> list[bytes]:
        """The root documents after `version`, in order, as envelopes. Raises SiteError."""
        return [
            _read(root_file(self.path, n))
            for n in range(version + 1, self.newest_root_version() + 1)
        ]

    def keys_ever(self) -> dict[str, TrustedKey]:
        """The keys of every version of the root document, for what they signed in their time.

        Raises SiteError.
        """
        ring: dict[str, TrustedKey] = {}
        root: Root | None = None
        try:
            for envelope in self.root_after(0):
                root = open_first_root(envelope) if root is None else open_next_root(envelope, root)
                ring |= root.key_ring()
        except SchemaError as error:
            raise SiteError(f"{self.path / 'roots'}: {error}; restore it from a backup") from None
        return ring

    def _unsealed(self, file: Path, what: str, environ: Mapping[str, str]) -> bytes:
        kek = read_kek(self.path, environ)
        try:
            return unseal_secret(kek, file.read_bytes(), key_context(self.name, what))
        except FileNotFoundError:
            raise SiteError(f"{file} is missing: restore it from a backup") from None
        except OSError as error:
            raise SiteError(f"{file}: {error.strerror}; run this as the site's user") from None
        except SchemaError as error:
            raise SiteError(
                f"{file} can't be opened: {error}; check {KEK_ENV} or {self.path / 'kek'}"
            ) from None


def open_site(path: Path) -> Site:
    """Read a site directory. Raises SiteError."""
    file = path / "root.json"
    if not file.exists():
        raise SiteError(
            f"{path.absolute()} is not a site directory (no root.json): make one with "
            "`ostiary init --site NAME`, or point --site-dir at yours"
        )
    envelope = _read(file)
    try:
        root = open_first_root(envelope)
        # root.json is written last: after a power cut a newer version may be in `roots` alone
        while (newer := root_file(path, root.version + 1)).exists():
            file, envelope = newer, _read(newer)
            root = open_next_root(envelope, root)
    except SchemaError as error:
        raise SiteError(f"{file} is damaged: {error}; restore it from a backup") from None
    return Site(path, root, envelope)


def create_site(
    path: Path,
    name: str,
    suite_name: SuiteName,
    random: RandomBytes,
    environ: Mapping[str, str],
    *,
    root_keys: RootKeys | None = None,
    passphrase: str | None = None,
) -> Site:
    """Make a new site; `root.json` comes last, so a site is there whole or not at all.

    The root keys go to `<path>-root-keys` unless `root_keys` says otherwise. Raises SiteError if
    a directory holds anything already: keys are never overwritten.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SiteError(f"{path} is not empty: choose another directory; nothing was changed")
    apart = root_keys or RootKeys(default_place(path))
    check_free(apart.place)
    for secret in (*apart.passphrases, *([] if passphrase is None else [passphrase])):
        check_passphrase(secret)
    now = SystemClock().now()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)  # whoever reads the database knows who went where, and when
    for folder in ("keys", "roots"):
        (path / folder).mkdir(mode=0o700)
    if passphrase is None and (KEK_ENV in environ or KEK_FILE_ENV in environ):
        kek = read_kek(path, environ)
    else:
        kek = make_kek(path, random, passphrase)
    algorithms = suite(suite_name)
    held = {role: algorithms.generate(random) for role in SERVER_ROLES}
    for role, key in held.items():
        write_key(path, role, seal_secret(kek, key.scalar, key_context(name, role), random))
    authority, ca_scalar = Authority.make(name, random, now)
    write_key(path, "ca", seal_secret(kek, ca_scalar, key_context(name, "ca"), random))
    write_durably(path / "ca.pem", authority.pem.encode(), mode=0o644)
    roots = [algorithms.generate(random) for _ in range(apart.count)]
    secrets: Sequence[str | None] = apart.passphrases or [None] * apart.count
    places = folders_of(apart.place, apart.count)
    for place, key, sealing in zip(places, roots, secrets, strict=True):
        write_root_key(place, name, key, random, sealing)
    signers = [Signer.of(key) for key in roots]
    holders = {role: (Signer.of(key),) for role, key in held.items()} | {"root": tuple(signers)}
    root = Root(
        site=name,
        issued=now,
        counter=1,
        suite=suite_name,
        keys={s.keyid: s.key.public.point.hex() for each in holders.values() for s in each},
        roles={
            role: Role(
                keyids=tuple(s.keyid for s in holders[role]),
                threshold=apart.threshold if role == "root" else 1,
            )
            for role in ROLE_PURPOSES
        },
        authorities=(authority.pem,),
    )
    envelope = sign_statement(root, *signers)
    write_durably(path / "server.toml", default_toml().encode(), mode=0o644)
    publish_root(path, 1, envelope)
    return Site(path, root, envelope)


def publish_root(path: Path, version: int, envelope: bytes) -> None:
    """Put a root document where the server and agents look for it, durably."""
    write_durably(root_file(path, version), envelope, mode=0o644)
    write_durably(path / "root.json", envelope, mode=0o644)


def write_key(path: Path, name: str, sealed: bytes) -> None:
    """Put a sealed key into the site."""
    write_durably(path / "keys" / f"{name}.sealed", sealed)


def next_key(path: Path, role: str) -> Path:
    """Where the key is that will hold a role once the root document that names it is accepted."""
    return path / "keys" / f"{role}.next.sealed"


def root_file(path: Path, version: int) -> Path:
    """Where one version of the root document is."""
    return path / "roots" / f"{version}.json"


def key_context(site: str, what: str) -> str:
    """What a sealed key says of itself, so that none can be put in another's place."""
    return f"{site}/{what}"


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


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SiteError(f"{file}: {error.strerror}; run this as the site's user") from None
