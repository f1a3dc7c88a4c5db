"""Key domains, versions and ESAMs as rows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.keys import CheckValues
from schemas.suites import SuiteName
from server.clock import from_microseconds, microseconds
from server.store.key_tables import esam_domains, esams, key_domains, key_versions


@dataclass(frozen=True)
class DomainRow:
    """A key domain and its floor: no version below it is given to any ESAM."""

    name: str
    suite: SuiteName
    floor: int
    created: datetime


@dataclass(frozen=True)
class VersionRow:
    """One version of a domain's secret; `stored` is empty once it is gone."""

    domain: str
    suite: SuiteName
    version: int
    home: str
    stored: bytes = field(repr=False)
    check_values: CheckValues
    created: datetime
    destroyed: datetime | None


@dataclass(frozen=True)
class EsamRow:
    """An ESAM, and the domains it may be given with the place of each, if known."""

    serial: str
    suite: SuiteName
    agent: str
    state: str
    home: str
    control: bytes = field(repr=False)
    domains: dict[str, int | None]
    added: datetime


async def read_domains(connection: AsyncConnection) -> list[DomainRow]:
    """All of them, by name."""
    rows = await connection.execute(select(key_domains).order_by(key_domains.c.name))
    return [_domain(row) for row in rows]


async def read_domain(connection: AsyncConnection, name: str) -> DomainRow | None:
    """One of them."""
    query = select(key_domains).where(key_domains.c.name == name)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _domain(row)


async def add_domain(
    connection: AsyncConnection, name: str, suite: SuiteName, now_us: int, floor: int = 1
) -> None:
    """A domain without versions yet."""
    values = {"name": name, "suite": suite, "floor": floor, "created_us": now_us}
    await connection.execute(insert(key_domains).values(values))


async def raise_floor(connection: AsyncConnection, name: str, floor: int) -> None:
    """Raise it; one that another process has raised higher stays."""
    query = update(key_domains).where(key_domains.c.name == name, key_domains.c.floor < floor)
    await connection.execute(query.values(floor=floor))


async def read_versions(connection: AsyncConnection, domain: str | None = None) -> list[VersionRow]:
    """The versions of one domain or of all, oldest first."""
    query = (
        select(key_versions, key_domains.c.suite)
        .join(key_domains, key_domains.c.name == key_versions.c.domain)
        .order_by(key_versions.c.domain, key_versions.c.version)
    )
    if domain is not None:
        query = query.where(key_versions.c.domain == domain)
    return [_version(row) for row in await connection.execute(query)]


async def put_version(connection: AsyncConnection, row: VersionRow) -> None:
    """A version, in the place of what was known of it."""
    key = (key_versions.c.domain == row.domain, key_versions.c.version == row.version)
    await connection.execute(delete(key_versions).where(*key))
    await add_version(connection, row)


async def add_version(connection: AsyncConnection, row: VersionRow) -> None:
    """A new version. Raises IntegrityError if it is there: keys are never written over."""
    await connection.execute(
        insert(key_versions).values(
            domain=row.domain,
            version=row.version,
            home=row.home,
            stored=row.stored,
            auth_check=row.check_values.auth,
            admit_check=row.check_values.admit,
            maintain_check=row.check_values.maintain,
            created_us=microseconds(row.created),
            destroyed_us=None if row.destroyed is None else microseconds(row.destroyed),
        )
    )


async def mark_destroyed(
    connection: AsyncConnection, domain: str, version: int, now_us: int
) -> None:
    """From now on no package is made of it."""
    await _change_version(connection, domain, version, destroyed_us=now_us)


async def forget_stored(connection: AsyncConnection, domain: str, version: int) -> None:
    """Forget what was kept of its keys. In SQLite the old bytes are overwritten, not just freed."""
    if connection.dialect.name == "sqlite":
        await connection.exec_driver_sql("PRAGMA secure_delete=ON")
    await _change_version(connection, domain, version, stored=b"")


async def _change_version(
    connection: AsyncConnection, domain: str, version: int, **values: object
) -> None:
    query = update(key_versions).where(
        key_versions.c.domain == domain, key_versions.c.version == version
    )
    await connection.execute(query.values(**values))


async def homes_in_use(connection: AsyncConnection) -> set[str]:
    """Where the keys are that are not destroyed, and the control keys."""
    kept = select(key_versions.c.home).where(key_versions.c.destroyed_us.is_(None))
    return set(await connection.scalars(kept.union(select(esams.c.home))))


async def read_esams(
    connection: AsyncConnection, serials: Collection[str] | None = None
) -> list[EsamRow]:
    """All ESAMs or some, by serial."""
    query = select(esams).order_by(esams.c.serial)
    places = select(esam_domains).order_by(esam_domains.c.domain)
    if serials is not None:
        query = query.where(esams.c.serial.in_(serials))
        places = places.where(esam_domains.c.serial.in_(serials))
    domains: dict[str, dict[str, int | None]] = {}
    for row in await connection.execute(places):
        domains.setdefault(row.serial, {})[row.domain] = row.place
    return [
        EsamRow(
            row.serial,
            row.suite,
            row.agent,
            row.state,
            row.home,
            row.control,
            domains.get(row.serial, {}),
            from_microseconds(row.added_us),
        )
        for row in await connection.execute(query)
    ]


async def put_esam(connection: AsyncConnection, row: EsamRow) -> None:
    """An ESAM with the domains it may be given, in the place of what was known of it."""
    await connection.execute(delete(esam_domains).where(esam_domains.c.serial == row.serial))
    await connection.execute(delete(esams).where(esams.c.serial == row.serial))
    await connection.execute(
        insert(esams).values(
            serial=row.serial,
            suite=row.suite,
            agent=row.agent,
            state=row.state,
            home=row.home,
            control=row.control,
            added_us=microseconds(row.added),
        )
    )
    for domain, place in row.domains.items():
        await connection.execute(
            insert(esam_domains).values(serial=row.serial, domain=domain, place=place)
        )


async def set_esam_state(connection: AsyncConnection, serial: str, state: str) -> None:
    """In service or out of it."""
    await connection.execute(update(esams).where(esams.c.serial == serial).values(state=state))


async def set_place(connection: AsyncConnection, serial: str, domain: str, place: int) -> None:
    """Where the ESAM keeps the domain, from its first package on."""
    query = update(esam_domains).where(
        esam_domains.c.serial == serial, esam_domains.c.domain == domain
    )
    await connection.execute(query.values(place=place))


def _domain(row: Row[Any]) -> DomainRow:
    return DomainRow(row.name, row.suite, row.floor, from_microseconds(row.created_us))


def _version(row: Row[Any]) -> VersionRow:
    return VersionRow(
        row.domain,
        row.suite,
        row.version,
        row.home,
        row.stored,
        CheckValues(auth=row.auth_check, admit=row.admit_check, maintain=row.maintain_check),
        from_microseconds(row.created_us),
        None if row.destroyed_us is None else from_microseconds(row.destroyed_us),
    )
