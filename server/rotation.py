"""The next root document: proposed where the server's keys are, signed where the root keys are.

A proposal is the document's envelope with the signatures so far, none at first: a file that may go
from hand to hand. The keys it names for the server's roles wait beside the present ones, and take
their place when the document is accepted; a power cut in between loses neither.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from schemas.envelope import Signer, envelope_json, pae
from schemas.errors import SchemaError, ThresholdNotMet
from schemas.root import MAX_ROOT_BYTES, ROOT_TYPE, Role, RoleName, Root, open_next_root
from schemas.sealed import seal_secret, unseal_secret
from schemas.statement import parse_statement
from schemas.strict_json import NotStrictJson, read_json
from schemas.suites import RandomBytes, keyid
from server.files import sync_directory
from server.kek import SiteError, read_kek
from server.root_keys import check_free, folders_of, write_root_key
from server.site import (
    SERVER_ROLES,
    RootKeys,
    Site,
    key_context,
    next_key,
    open_site,
    publish_root,
    write_key,
)


@dataclass(frozen=True)
class Proposal:
    """A root document and who has signed it so far."""

    payload: bytes
    signatures: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Root) -> Proposal:
        """One that nobody has signed."""
        return cls(root.model_dump_json().encode())

    @classmethod
    def parse(cls, data: bytes) -> Proposal:
        """Read a file. Raises SiteError. No signature is checked: `accept` does."""
        try:
            if len(data) > MAX_ROOT_BYTES:
                raise ValueError("it is too long")
            proposal = cls._of_json(read_json(data))
            parse_statement(proposal.payload, Root)
        except (NotStrictJson, SchemaError, ValueError, KeyError, TypeError) as error:
            raise SiteError(
                f"not a proposed root document ({error}): give the file of `ostiary root rotate`"
            ) from None
        return proposal

    @classmethod
    def _of_json(cls, envelope: Any) -> Proposal:
        if envelope["payloadType"] != ROOT_TYPE:
            raise ValueError("it is of another type")
        try:
            return cls(
                b64decode(envelope["payload"], validate=True),
                {
                    str(each["keyid"]): b64decode(each["sig"], validate=True)
                    for each in envelope["signatures"]
                },
            )
        except binascii.Error:
            raise ValueError("it is not base64") from None

    @property
    def root(self) -> Root:
        """What is proposed."""
        return parse_statement(self.payload, Root)

    @property
    def envelope(self) -> bytes:
        """With the signatures so far."""
        return envelope_json(ROOT_TYPE, self.payload, list(self.signatures.items()))

    def signed_by(self, signers: Iterable[Signer]) -> Proposal:
        """With more signatures."""
        message = pae(ROOT_TYPE, self.payload)
        added = {signer.keyid: signer.key.sign(message) for signer in signers}
        return Proposal(self.payload, self.signatures | added)


def propose(
    site: Site,
    roles: Collection[RoleName],
    environ: Mapping[str, str],
    *,
    random: RandomBytes,
    now: datetime,
    new_root: RootKeys | None = None,
) -> Proposal:
    """The next document with new keys for `roles`; signed by new root keys alone, if there are any.

    The keys are on the disk, sealed, before it returns. Raises SiteError or OSError.
    """
    settle_keys(site, environ)
    kek = read_kek(site.path, environ)
    holders: dict[RoleName, Role] = dict(site.root.roles)
    points = dict(site.root.keys)
    signers: list[Signer] = []
    if "root" in roles:
        if new_root is None:
            raise SiteError("new root keys need a place: name one with --new-root-keys")
        check_free(new_root.place)
        signers = _new_root_keys(site, new_root, random)
        holders["root"] = Role(keyids=tuple(s.keyid for s in signers), threshold=new_root.threshold)
        points |= {s.keyid: s.key.public.point.hex() for s in signers}
    for role in (each for each in SERVER_ROLES if each in roles):
        key = site.suite.generate(random)
        context = key_context(site.name, role)
        write_key(site.path, f"{role}.next", seal_secret(kek, key.scalar, context, random))
        name = keyid(key.public)
        holders[role] = Role(keyids=(name,))
        points[name] = key.public.point.hex()
    named = {name for role in holders.values() for name in role.keyids}
    root = Root(
        site=site.name,
        issued=now,
        counter=site.root.version + 1,
        suite=site.root.suite,
        keys={name: point for name, point in points.items() if name in named},
        roles=holders,
        authorities=site.root.authorities,
    )
    return Proposal.of(root).signed_by(signers)


def accept(site: Site, proposal: Proposal, environ: Mapping[str, str]) -> Site:
    """Make the proposed document the site's: agents get it, and its keys sign from now on.

    Accepting it again does no harm. Raises SiteError if signatures are missing, if it does not
    follow the present document, or if a key that it names is not here.
    """
    if not proposal.signatures:
        raise SiteError("nobody has signed the proposed root document: use `ostiary root sign`")
    try:
        root = open_next_root(proposal.envelope, site.root)
    except ThresholdNotMet as error:
        raise SiteError(
            f"{error}: have it signed with `ostiary root sign` by who holds the other root keys"
        ) from None
    except SchemaError as error:
        raise SiteError(f"the proposed root document is refused: {error}") from None
    if root.version != site.root.version:
        for role in SERVER_ROLES:
            if not _holds(site, root, role, environ):
                raise SiteError(
                    f"the key for the role {role} is not in {site.path / 'keys'}: a later"
                    " `ostiary root rotate` has replaced it; have that one signed"
                )
        publish_root(site.path, root.version, proposal.envelope)
    changed = open_site(site.path)
    settle_keys(changed, environ)
    return changed


def settle_keys(site: Site, environ: Mapping[str, str]) -> None:
    """Put keys that wait where they belong, if the document that names them was accepted."""
    for role in SERVER_ROLES:
        waiting = next_key(site.path, role)
        if waiting.exists() and _keyid(site, waiting.name, role, environ) in (
            site.root.roles[role].keyids
        ):
            waiting.replace(site.path / "keys" / f"{role}.sealed")
            sync_directory(site.path / "keys")


def _holds(site: Site, root: Root, role: RoleName, environ: Mapping[str, str]) -> bool:
    """Whether the key that `root` names for a role is here."""
    files = (f"{role}.sealed", next_key(site.path, role).name)
    return any(
        _keyid(site, name, role, environ) in root.roles[role].keyids
        for name in files
        if (site.path / "keys" / name).exists()
    )


def _keyid(site: Site, name: str, role: str, environ: Mapping[str, str]) -> str:
    file = site.path / "keys" / name
    kek = read_kek(site.path, environ)
    try:
        scalar = unseal_secret(kek, file.read_bytes(), key_context(site.name, role))
        return keyid(site.suite.private_key(scalar).public)
    except SchemaError as error:
        raise SiteError(f"{file} can't be opened: {error}") from None


def _new_root_keys(site: Site, new: RootKeys, random: RandomBytes) -> list[Signer]:
    signers = []
    for n, folder in enumerate(folders_of(new.place, new.count)):
        key = site.suite.generate(random)
        secret = new.passphrases[n] if new.passphrases else None
        write_root_key(folder, site.name, key, random, secret)
        signers.append(Signer.of(key))
    return signers
