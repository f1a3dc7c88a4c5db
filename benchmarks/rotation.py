"""How soon thousands of locks have new keys: a rotation from its plan to its end.

The locks are imagined (`ostiary-fleet`), with a chip each that keeps to the rules of an ESAM; key
authority, protocol, broker and server are real, and all share this machine's cores. One lock in a
hundred has no network, some crash in the midst of it, and cards are held up at doors all the time:
none of them may be refused because of its keys.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from benchmarks.fleet_site import PEOPLE, FleetSite, card, fleet_site
from benchmarks.result import Row
from benchmarks.site import reading
from schemas.events import event_type
from schemas.keys import Item, KeyPackage, KeyRequest
from schemas.names import SERVER
from schemas.statement import sign_statement
from schemas.suites import SuiteName
from server.clock import SystemClock
from server.config import load_config
from server.keys.authority import KeyAuthority
from server.keys.esams import Esams, NewEsam
from server.keys.homes import Homes, open_homes
from server.keys.issuing import Asked, Issuer
from server.site import create_site, open_site
from server.store.database import open_database
from server.store.model_tables import bindings

DOMAIN = "zone"
OFFLINE, CRASHES = 0.01, 0.01
TAPS_PER_S = 20.0
LOOK_S = 2.0
"""Each look has the server count all locks: often would be a load of its own."""
PATIENCE_S = 1800.0
BAR_S = 600.0
PACKAGES, BATCH = 2_048, 64


async def measure(name: SuiteName, locks: int) -> list[Row]:
    """One campaign."""
    away = max(1, int(locks * OFFLINE))
    running = [
        *("--crashes", str(CRASHES), "--cut-off", str(away)),
        *("--cards", str(PEOPLE), "--taps-per-s", str(TAPS_PER_S)),
    ]
    with tempfile.TemporaryDirectory(prefix="ostiary-rotation-") as folder:
        began_s = time.monotonic()
        async with fleet_site(
            Path(folder), name, locks, domain=DOMAIN, running=running, prepare=_prepare
        ) as site:
            watch = Watch(site, f"{locks:,} locks, {name}", began_s)
            await watch.until("first policies and keys", lambda: _holding(site, 1, locks))
            await asyncio.sleep(2.0)  # the fleet says once a second what it counts
            watch.lockouts = site.fleet_says()["lockouts"]  # before there was any key
            site.tell_fleet(signal.SIGUSR1)
            await watch.until("locks cut off", lambda: _unreachable(site, away))
            return await _rotate(site, watch, locks)


async def _rotate(site: FleetSite, watch: Watch, locks: int) -> list[Row]:
    began_s, cpu_s = watch.last_s, site.cpu_s()
    plan = await site.call("POST", "/api/v1/rotations", {"domain": DOMAIN})
    path = f"/api/v1/rotations/{plan['id']}"
    watch.phase("planned")
    packages = _packages(site)
    await site.call("POST", f"{path}/start", {})
    pauses = []
    while True:
        state = await site.call("GET", path)
        if state["state"] == "paused":
            pauses.append(state["reason"])
            await site.call("POST", f"{path}/resume", {})
        waiting = [each for each in state["waiting"] if each["reachable"]]
        if state["wave"] == 3 and state["waiting"] and not waiting:
            break
        watch.check()
        await asyncio.sleep(LOOK_S)
    staging_s = watch.phase("staged at all that can be reached")
    packages = _packages(site) - packages
    found = await site.call("POST", f"{path}/quarantine", {})
    quarantined = found["locks"]["quarantined"]
    reached = locks - quarantined

    async def active() -> bool:
        counted = (await site.call("GET", path))["locks"]["new"]
        return bool(counted.get("active", 0) >= reached)

    await watch.until("preferred at all that can be reached", active)

    async def followed() -> bool:
        return not (await site.call("GET", path))["cards"]["behind"]

    await watch.until("cards follow, tap by tap", followed)
    await site.call("POST", f"{path}/retire", {})

    async def completed() -> bool:
        state = await site.call("GET", path)
        if state["state"] == "paused":
            pauses.append(state["reason"])
            await site.call("POST", f"{path}/resume", {})
        return bool(state["state"] == "completed")

    await watch.until("old version retired and erased", completed)
    total_s = watch.last_s - began_s
    spent_s = {name: now_s - cpu_s[name] for name, now_s in site.cpu_s().items()}
    await asyncio.sleep(2.0)
    lockouts = site.fleet_says()["lockouts"] - watch.lockouts
    site.tell_fleet(signal.SIGUSR2)
    await watch.until("those cut off are back, with the new keys", lambda: _holding(site, 2, locks))
    fleet = site.fleet_says()
    late = fleet["lockouts"] - watch.lockouts - lockouts
    for reason in pauses:
        print(f"paused: {reason}")
    label = watch.label
    return [
        *watch.rows,
        *(
            _row(f"processor time of the {name}, plan to end, {label}", round(of_s, 1), "s")
            for name, of_s in spent_s.items()
        ),
        _row(f"packages made while staging, {label}", round(packages / staging_s), "per s"),
        _row(f"crashes in the midst of an order, {label}", fleet["crashed"], ""),
        _row(f"locks quarantined, {label}", quarantined, ""),
        _row(f"pauses, {label}", len(pauses), ""),
        _row(f"cards held up at doors, {label}", fleet["taps"], ""),
        _row(f"lock-outs where a lock has just come back, {label}", late, ""),
        Row(f"lock-outs, {label}", lockouts, "", "0", lockouts == 0),
        Row(
            f"from plan to end, {label}",
            round(total_s, 1),
            "s",
            f"<= {BAR_S:,.0f} s",
            total_s <= BAR_S,
        ),
    ]


@dataclass
class Watch:
    """The phases, with what each took of time and of processors."""

    site: FleetSite
    label: str
    last_s: float
    lockouts: int = 0
    rows: list[Row] = field(default_factory=list)
    _cpu_s: dict[str, float] = field(default_factory=dict)

    def phase(self, name: str) -> float:
        """A phase is over: how many seconds it took."""
        now_s, cpu_s = time.monotonic(), self.site.cpu_s()
        took_s = now_s - self.last_s
        spent = {n: round(s - self._cpu_s.get(n, 0.0), 1) for n, s in cpu_s.items()}
        shares = ", ".join(f"{name} {seconds} s" for name, seconds in spent.items())
        self.rows.append(_row(f"{name}, {self.label}", round(took_s, 1), "s"))
        print(f"{took_s:8.1f} s  {name} ({shares})", flush=True)
        self.last_s, self._cpu_s = now_s, cpu_s
        return took_s

    async def until(self, name: str, true: Callable[[], Awaitable[bool]]) -> None:
        """A phase that ends once this is true."""
        while not await true():
            self.check()
            await asyncio.sleep(LOOK_S)
        self.phase(name)

    def check(self) -> None:
        """Raises SystemExit if this phase takes too long."""
        if time.monotonic() - self.last_s > PATIENCE_S:
            raise SystemExit(f"no end after {PATIENCE_S} s: {self.site.fleet_says()}")


async def _prepare(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Make the domain, let the site know each ESAM, and have everybody's card bound already."""
    site = open_site(path)
    engine = await open_database(site.database)
    clock = SystemClock()
    with ThreadPoolExecutor(1) as executor:
        homes = open_homes(
            site, load_config(site.config_file, {}), {}, secrets.token_bytes, executor
        )
        await _authority(engine, homes).create_domain(DOMAIN, site.suite.name, "bench")
        esams = [
            NewEsam(
                serial=chip["serial"],
                suite=chip["suite"],
                control_key=bytes.fromhex(chip["control_key"]),
                agent=entry["agent"],
                domains=(DOMAIN,),
            )
            for entry in entries
            if (chip := entry["esam"])
        ]
        await Esams(engine, homes, clock, _unheard).take(esams, "bench")
        bound = {"domain": DOMAIN, "key_version": 1, "event": "bench", "time_us": 1}
        async with engine.begin() as connection:
            await connection.execute(
                insert(bindings), [bound | {"card": card(n)} for n in range(1, PEOPLE + 1)]
            )
    await engine.dispose()


def _unheard() -> None:
    return


def _authority(engine: Any, homes: Homes) -> KeyAuthority:
    return KeyAuthority(engine=engine, homes=homes, clock=SystemClock(), announced=_unheard)


async def _holding(site: FleetSite, version: int, locks: int) -> bool:
    """Whether all locks said that they hold this version, and nothing below it."""
    with reading(site.store) as database:
        rows = database.execute("select held, floor from lock_keys").fetchall()
    good = [held for held, floor in rows if str(version) in json.loads(held) and floor >= version]
    return len(good) >= locks


async def _unreachable(site: FleetSite, count: int) -> bool:
    with reading(site.store) as database:
        query = "select count(*) from presence where not online"
        return bool(database.execute(query).fetchone()[0] >= count)


def _packages(site: FleetSite) -> int:
    with reading(site.store) as database:
        query = "select count(*) from events where type = ?"
        return int(database.execute(query, [event_type("keys.package_made")]).fetchone()[0])


def _row(name: str, value: float, unit: str) -> Row:
    return Row(name, value, unit, "reported", True)


async def measure_packages(name: SuiteName = "intl") -> list[Row]:
    """Packages a second, recorded and signed, against what the signatures alone cost."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory(prefix="ostiary-packages-") as folder:
        path = Path(folder) / "site"
        site = create_site(path, "bench", name, secrets.token_bytes, {})
        engine = await open_database(site.database)
        with ThreadPoolExecutor(1) as executor:
            homes = open_homes(
                site, load_config(site.config_file, {}), {}, secrets.token_bytes, executor
            )
            await _authority(engine, homes).create_domain(DOMAIN, name, "bench")
            serials = [f"{n:016x}" for n in range(BATCH)]
            esams = [
                NewEsam(
                    serial=serial,
                    suite=name,
                    control_key=secrets.token_bytes(16),
                    agent=f"agent-{serial}",
                    domains=(DOMAIN,),
                )
                for serial in serials
            ]
            await Esams(engine, homes, clock, _unheard).take(esams, "bench")
            issuer = Issuer(engine=engine, homes=homes, clock=clock, announced=_unheard)
            signer = site.signer("keys", {})
            made: list[KeyPackage] = []
            began_s = time.monotonic()
            for _ in range(PACKAGES // BATCH):
                asked = [Asked(f"agent-{serial}", _request(serial)) for serial in serials]
                for package in await issuer.packages(asked):
                    assert isinstance(package, KeyPackage)
                    sign_statement(package, signer)
                    made.append(package)
            spent_s = time.monotonic() - began_s
            began_s = time.monotonic()
            for package in made:
                sign_statement(package, signer)
            floor_s = time.monotonic() - began_s
        await engine.dispose()
    rate, floor = PACKAGES / spent_s, PACKAGES / floor_s
    return [
        Row(
            f"packages, recorded and signed, {name}",
            round(rate),
            "per s",
            ">= 200 per s",
            rate >= 200,
            round(floor),
            "the signatures alone, one thread",
            round(floor / rate, 2),
        )
    ]


def _request(serial: str) -> KeyRequest:
    return KeyRequest(
        site="bench",
        audience=SERVER,
        issued=SystemClock().now(),
        counter=1,
        session="00" * 8,
        esam=serial,
        domain=DOMAIN,
        index=1,
        version=1,
        item=Item.KEYS,
        challenge=secrets.token_hex(16),
    )
