"""Backup and restore of what the key authority has, between the database and a file's contents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.server_event_data import KeysCopied
from schemas.suites import RandomBytes
from server.clock import Clock, microseconds
from server.keys import backup
from server.keys.home import HomeUnavailable, KeysError, Source
from server.keys.sealed import SealedHome
from server.site import Site
from server.store import keys as rows
from server.store.announcements import announce
from server.store.database import snapshot


@dataclass(frozen=True)
class Restored:
    """What came of a restore: how many the site lacked or could not open, and has now."""

    versions: int
    esams: int
    destroyed: tuple[str, ...]
    """`domain/version` that the backup has, but this site has destroyed since: they stay so."""


@dataclass(frozen=True)
class Copying:
    """Copies out and in. Keys are sealed all the way: they change from one seal to another."""

    engine: AsyncEngine
    site: Site
    kek: bytes = field(repr=False)
    random: RandomBytes
    clock: Clock
    announced: Callable[[], None]

    async def copy_out(self, key: backup.BackupKey | None, by: str) -> bytes:
        """The backup file, under `key`; none: under the site's. Raises KeysError.

        It is in the audit log before anyone has it.
        """
        under = key or backup.BackupKey(self.kek)
        async with snapshot(self.engine) as connection:
            contents = await self._contents(connection, self._home(under.key))
        data = backup.write_backup(self.site.name, contents, under, self.clock.now(), self.random)
        copied = _copied(by, contents, len(under.shares), under.needed)
        await self._announce("keys.backed_up", copied)
        return data

    async def copy_in(self, data: bytes, shares: Sequence[str], by: str) -> Restored:
        """Take all that a backup has and this site lacks, in one transaction. Raises KeysError.

        Keys that are there already are written anew under the site's key-encryption key, which
        heals a database whose own was lost. A version that differs stops everything; one that was
        destroyed stays destroyed; floors never go down.
        """
        heading = backup.read_heading(data)
        if heading.site != self.site.name:
            raise KeysError(f"the backup is of site {heading.site}, this is {self.site.name}")
        key = backup.key_for(heading, self.kek, shares)
        contents = backup.read_backup(data, key)
        now_us = microseconds(self.clock.now())
        async with self.engine.begin() as connection:
            await _restore_domains(connection, contents, now_us)
            versions, destroyed = await self._restore_versions(
                connection, contents, self._home(key)
            )
            esams = await self._restore_esams(connection, contents, self._home(key))
            copied = _copied(by, contents, heading.shares, heading.needed)
            await announce(connection, "keys.restored", f"sites/{self.site.name}", copied, now_us)
        self.announced()
        return Restored(versions, esams, tuple(destroyed))

    async def _contents(self, connection: AsyncConnection, to: SealedHome) -> backup.Contents:
        ours = self._home(self.kek)
        return backup.Contents(
            domains=tuple(
                backup.CopiedDomain(name=each.name, suite=each.suite, floor=each.floor)
                for each in await rows.read_domains(connection)
            ),
            versions=tuple(
                backup.CopiedVersion(
                    domain=each.domain,
                    version=each.version,
                    home=each.home,
                    stored=_moved(each, ours, to).hex(),
                    check_values=each.check_values,
                    created=each.created,
                    destroyed=each.destroyed,
                )
                for each in await rows.read_versions(connection)
            ),
            esams=tuple(
                backup.CopiedEsam(
                    serial=each.serial,
                    suite=each.suite,
                    agent=each.agent,
                    state=each.state,
                    home=each.home,
                    control=_moved(each, ours, to).hex(),
                    domains=each.domains,
                    added=each.added,
                )
                for each in await rows.read_esams(connection)
            ),
        )

    async def _restore_versions(
        self, connection: AsyncConnection, contents: backup.Contents, sealed_by: SealedHome
    ) -> tuple[int, list[str]]:
        there = {(v.domain, v.version): v for v in await rows.read_versions(connection)}
        lacked, destroyed = 0, []
        suites = {each.name: each.suite for each in contents.domains}
        for each in contents.versions:
            ours = there.get((each.domain, each.version))
            name = f"{each.domain}/{each.version}"
            if ours is not None and ours.check_values != each.check_values:
                raise KeysError(
                    f"the backup's {name} is not this site's: their check values differ."
                    " Nothing was restored"
                )
            if ours is not None and ours.destroyed is not None:
                if each.destroyed is None:
                    destroyed.append(name)
                continue
            row = rows.VersionRow(
                each.domain,
                suites[each.domain],
                each.version,
                each.home,
                bytes.fromhex(each.stored),
                each.check_values,
                each.created,
                each.destroyed,
            )
            stored = _moved(row, sealed_by, self._home(self.kek))
            await rows.put_version(connection, replace(row, stored=stored))
            lacked += each.destroyed is None and not self._has(ours)
        return lacked, destroyed

    async def _restore_esams(
        self, connection: AsyncConnection, contents: backup.Contents, sealed_by: SealedHome
    ) -> int:
        lacked = 0
        there = {each.serial: each for each in await rows.read_esams(connection)}
        for each in contents.esams:
            row = rows.EsamRow(
                each.serial,
                each.suite,
                each.agent,
                each.state,
                each.home,
                bytes.fromhex(each.control),
                dict(each.domains),
                each.added,
            )
            row = replace(row, control=_moved(row, sealed_by, self._home(self.kek)))
            ours = there.get(each.serial)
            lacked += not self._has(ours)
            if ours is not None:
                # what happened since the backup stands: only the control key is of the backup
                row = replace(ours, suite=row.suite, home=row.home, control=row.control)
            await rows.put_esam(connection, row)
        return lacked

    def _has(self, row: rows.VersionRow | rows.EsamRow | None) -> bool:
        """Whether the site has what the row keeps: it is there, and opens."""
        if row is None:
            return False
        try:
            _moved(row, self._home(self.kek), self._home(self.kek))
        except HomeUnavailable:
            return False
        return True

    def _home(self, kek: bytes) -> SealedHome:
        return SealedHome(self.site.name, kek, self.random)

    async def _announce(self, name: str, copied: KeysCopied) -> None:
        now_us = microseconds(self.clock.now())
        async with self.engine.begin() as connection:
            await announce(connection, name, f"sites/{self.site.name}", copied, now_us)
        self.announced()


async def _restore_domains(
    connection: AsyncConnection, contents: backup.Contents, now_us: int
) -> None:
    there = {each.name: each for each in await rows.read_domains(connection)}
    for each in contents.domains:
        ours = there.get(each.name)
        if ours is None:
            await rows.add_domain(connection, each.name, each.suite, now_us, each.floor)
        elif each.suite != ours.suite:
            raise KeysError(
                f"the backup's domain {each.name} is of suite {each.suite}, this site's of"
                f" {ours.suite}. Nothing was restored"
            )
        elif each.floor > ours.floor:
            await rows.raise_floor(connection, each.name, each.floor)


def _moved(row: rows.VersionRow | rows.EsamRow, ours: SealedHome, to: SealedHome) -> bytes:
    """What the row keeps, under the other seal; a token's name for a key stays as it is."""
    if isinstance(row, rows.EsamRow):
        if row.home != ours.name:
            return row.control
        return ours.moved_control_key(row.suite, bytes.fromhex(row.serial), row.control, to)
    if row.destroyed is not None:
        return b""
    if row.home != ours.name:
        return row.stored
    return ours.moved_version(Source(row.domain, row.suite, row.version, row.stored), to)


def _copied(by: str, contents: backup.Contents, shares: int, needed: int) -> KeysCopied:
    return KeysCopied(
        by=by,
        versions=len(contents.versions),
        esams=len(contents.esams),
        shares=shares,
        needed=needed,
    )
