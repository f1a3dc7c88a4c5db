"""`ostiary events`: watch, verify, export and prove what doors signed."""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64encode
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas.chain import EVENTS_TYPE
from schemas.envelope import KeyRing, pae
from schemas.events import EVENT_DATA, door_subject, event_name, event_type
from schemas.suites import spki
from server.cli.console import DEFAULT_SITE_DIR, SiteDir, err, fail, opened, out, run, the_site
from server.clock import from_microseconds
from server.config import ServerConfig
from server.feed import cursor
from server.feed.cloudevents import as_json, deliver
from server.files import write_durably
from server.ingest.alarms import printable
from server.site import Site, SiteError
from server.store.agents import AgentsChanged, event_ring, list_agents, list_retired
from server.store.audit import BadPlace, ChainAudit, count_events, list_chains, read_chain
from server.store.events import (
    StoredEvent,
    position_before,
    proof_of,
    read_after,
    read_signed,
    store_id,
)
from server.store.model_tables import doors

app = typer.Typer(help="Watch, verify, export and prove events.", no_args_is_help=True)
_POLL_S = 0.25
_PAGE = 500
_FIRST = (
    *("reason", "outcome", "person", "card", "direction", "mode", "cause", "kind", "id", "subject"),
    *("scope", "name", "action", "domain", "from_version", "to_version", "key_version"),
    *("policy_version", "sequence", "counter", "version", "floor", "state", "doors", "count"),
    *("agent", "by", "why"),
)
"""What a line of `tail` says first of the data, in this order."""
_UNTOLD = {
    *("clock", "latency_ms", "response_ms", "operator_to_strike_ms", "policy_age_s"),
    *("hash", "keyid", "check_values", "grant", "command", "decided_by", "method"),
    *("revocation_seq", "freshness", "detail"),
}
"""What it does not say, but for `detail`, which ends it; `--json` says all."""

Since = Annotated[str | None, typer.Option(help="A cursor: only what came after it.")]


@app.command()
def tail(
    *,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    since: Since = None,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="Begin so many back.")] = 10,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Such as access.denied; may be repeated.")
    ] = None,
    door: Annotated[str | None, typer.Option(help="One door only.")] = None,
    follow: Annotated[bool, typer.Option(help="Go on as events come, until Ctrl-C.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="CloudEvents, one a line.")] = False,
) -> None:
    """Show events as they arrive; works whether or not the server runs."""
    site, config = the_site(site_dir)
    wanted = [_known_type(name) for name in types or ()]
    subject = door_subject(door) if door else None

    async def work() -> None:
        async with opened(site, config) as engine:
            name = await store_id(engine)
            if door is not None and not await _door_known(engine, door):
                fail(f"there is no door {door}, and no event of one; names are case-sensitive")
            if since is None:
                position = await position_before(engine, last, types=wanted, subject=subject)
            else:
                position = await _position(engine, since)
            while True:
                page = await read_after(engine, position, _PAGE, types=wanted, subject=subject)
                for event in page:
                    position = event.position
                    typer.echo(as_json_line(event, name) if as_json else _in_words(event))
                if len(page) == _PAGE:
                    continue
                if not follow:
                    if not position:
                        err.print("No such events yet." if wanted or door else "No events yet.")
                    return
                await asyncio.sleep(_POLL_S)  # another process writes: there is nothing to await

    run(work())


def _known_type(name: str) -> str:
    if name not in EVENT_DATA:
        fail(f"--type: no such type {name!r}; there are {', '.join(sorted(EVENT_DATA))}")
    return event_type(name)


def as_json_line(event: StoredEvent, store: str) -> str:
    """The event as the API gives it."""
    return as_json(deliver(event, store))


def _in_words(event: StoredEvent) -> str:
    data: dict[str, Any] = json.loads(event.line)["data"]
    data = {key: value for key, value in data.items() if not event.subject.endswith(f"/{value}")}
    if event_name(event.type).startswith("access."):
        for known in ("policy_version", "domain"):  # which are the same for hours
            data.pop(known, None)
    told = [*_FIRST, *sorted(data.keys() - _UNTOLD - set(_FIRST)), "detail"]
    details = " ".join(
        f"{key}={_text(data[key])}" for key in told if data.get(key) not in (None, "")
    )
    when = from_microseconds(event.time_us).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    line = f"{when}  {event_name(event.type):<24}{event.subject:<24}{details}"
    return printable(line)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, list | dict) else str(value)


async def _door_known(engine: AsyncEngine, door: str) -> bool:
    """Whether the model has it, or some event is about it: it may be gone since."""
    there = select(doors.c.id).where(doors.c.id == door)
    async with engine.connect() as connection:
        if await connection.scalar(there) is not None:
            return True
    return bool(await read_after(engine, 0, 1, subject=door_subject(door)))


@app.command()
def verify(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check every signature and every link of every chain in the store.

    Exit code 1 if anything is not as it was signed; the first bad place of each chain is named.
    """
    site, config = the_site(site_dir)
    results = run(_verify(site, config, quiet=as_json))
    bad = [place for _, _, _, place in results if place is not None]
    total = sum(lines for _, _, lines, _ in results)
    if as_json:
        found = [
            {"source": s, "chain": c, "events": n, "bad": place and vars(place)}
            for s, c, n, place in results
        ]
        typer.echo(json.dumps({"ok": not bad, "events": total, "chains": found}))
    else:
        table = Table("source", "chain", "events", "")
        for source, chain, lines, place in results:
            verdict = "[red]BAD[/]" if place else "[green]good[/]"
            # who wrote into the database must not write onto the screen of who checks it
            table.add_row(Text(printable(source)), Text(printable(chain)), str(lines), verdict)
        table.add_row("total", "", str(total), "", style="bold")
        out.print(table)
        for place in bad:
            where = printable(f"source {place.source}, chain {place.chain}")
            err.print(
                f"BAD: {where}, sequence {place.sequence}, position {place.position}: "
                f"{printable(place.why)}",
                markup=False,
            )
    if bad:
        err.print(
            "The store is not what was signed. Keep it as evidence, restore a backup beside it, "
            "and compare the two with `ostiary events export`."
        )
        raise typer.Exit(1)


async def _verify(
    site: Site, config: ServerConfig, *, quiet: bool
) -> list[tuple[str, str, int, BadPlace | None]]:
    results = []
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with opened(site, config) as engine:
        trusted = await _everyone(engine, site)
        with Progress(*columns, console=err, disable=quiet or not err.is_terminal) as progress:
            task = progress.add_task("", total=await count_events(engine))
            for (source, chain), head in (await list_chains(engine)).items():
                audit = ChainAudit(source, chain, site.name, site.suite, trusted)
                place: BadPlace | None = None
                try:
                    async for rows in read_chain(engine, source, chain):
                        await asyncio.to_thread(audit.check, rows)
                        progress.advance(task, len(rows))
                    audit.finish(head)
                except BadPlace as bad:
                    place = bad
                results.append((source, chain, audit.lines, place))
    return results


@app.command()
def export(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="A new file; standard output by default.")
    ] = None,
    since: Since = None,
) -> None:
    """Write every signed envelope as a line of JSON, for someone else to verify.

    Each line: {"envelope", "events", "source", "chain", "from", "to", "cursor"}. With --since,
    give the cursor of the last line you have.
    """
    site, config = the_site(site_dir)
    try:
        stream = out_file.open("x") if out_file else sys.stdout
    except OSError as error:
        fail(f"{out_file}: {error.strerror}; choose a file that is not there yet")

    async def work() -> int:
        count = 0
        async with opened(site, config) as engine:
            name = await store_id(engine)
            async for signed in read_signed(engine, await _position(engine, since)):
                line = {
                    "envelope": json.loads(signed.envelope),
                    "events": len(signed.lines),
                    "source": signed.source,
                    "chain": signed.chain,
                    "from": signed.first,
                    "to": signed.last,
                    "cursor": cursor.encode(name, signed.position),
                }
                stream.write(json.dumps(line, separators=(",", ":")) + "\n")
                count += len(signed.lines)
        stream.flush()
        return count

    count = run(work())
    if out_file:
        stream.close()
        err.print(f"{count} events are in {out_file}")


@app.command()
def proof(
    event_id: Annotated[str, typer.Argument(help="The event's id: <chain>-<sequence>.")],
    out_dir: Annotated[Path, typer.Option("--out", help="A directory for the files.")],
    site_dir: SiteDir = DEFAULT_SITE_DIR,
) -> None:
    """Write what proves one event, for OpenSSL and the like.

    line, payload.bin, pae.bin (the signed bytes), signature.der, public_key.pem, envelope.json.
    """
    site, config = the_site(site_dir)

    async def work() -> int:
        async with opened(site, config) as engine:
            found = await proof_of(engine, event_id)
            if found is None:
                fail(f"no event {event_id}; ids are shown by `ostiary events tail --json`")
            signed = found.signed
            trust = (await _everyone(engine, site)).get(signed.keyid)
            if trust is None:
                fail(f"the key {signed.keyid} is not registered: run `ostiary events verify`")
        out_dir.mkdir(parents=True, exist_ok=True)
        contents = {
            "line": found.line,
            "payload.bin": signed.payload,
            "pae.bin": pae(EVENTS_TYPE, signed.payload),
            "signature.der": signed.signature,
            "public_key.pem": _pem(spki(trust.key)),
            "envelope.json": found.envelope,
        }
        for name, data in contents.items():
            write_durably(out_dir / name, data, mode=0o644)
        return found.index

    try:
        index = run(work())
    except OSError as error:
        fail(f"{out_dir}: {error.strerror}")
    err.print(f"The event is line {index} (from 0) of the signed payload; files are in {out_dir}/")


def _pem(der: bytes) -> bytes:
    """RFC 7468 13."""
    text = b64encode(der).decode()
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return "\n".join(
        ["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""]
    ).encode()


async def _everyone(engine: AsyncEngine, site: Site) -> KeyRing:
    """Every key that ever could sign events here: agents' and the server's own."""
    try:
        everyone = [*await list_agents(engine), *await list_retired(engine)]
        return {**site.keys_ever(), **event_ring(everyone, site.suite)}
    except (AgentsChanged, SiteError) as error:
        fail(str(error))


async def _position(engine: AsyncEngine, since: str | None) -> int:
    if since is None:
        return 0
    try:
        return cursor.decode(await store_id(engine), since)
    except (cursor.BadCursor, cursor.ForeignCursor) as error:
        fail(f"--since: {error}")
