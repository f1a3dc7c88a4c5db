"""`ostiary tokens`: who may use the API, and for what."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from server.api.permission import SCOPES
from server.cli.console import DEFAULT_SITE_DIR, SiteDir, err, fail, out
from server.cli.remote import Url, remote
from server.clock import SystemClock
from server.feed.cloudevents import as_json
from server.ingest.alarms import printable

app = typer.Typer(help="API tokens.", no_args_is_help=True)
PATH = "/api/v1/tokens"
_YEAR_DAYS = 365


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what will use it; stands in events.")],
    scopes: Annotated[
        list[str], typer.Option("--scope", help=f"{', '.join(SCOPES)}; may be repeated.")
    ],
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
    days: Annotated[
        int, typer.Option(min=0, help="How long it is good for; 0: until it is revoked.")
    ] = _YEAR_DAYS,
) -> None:
    """Make a token and print it, this once: it can't be read again."""
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        fail(f"--scope {unknown[0]}: there are {', '.join(SCOPES)}")
    expires = SystemClock().now() + timedelta(days=days) if days else None
    body = {
        "name": name,
        "scopes": scopes,
        "expires": None if expires is None else expires.isoformat(timespec="seconds"),
    }
    with remote(site_dir, url) as client:
        made = client.post(PATH, body)
    typer.echo(made["token"])
    until = f"until {made['expires'][:10]}" if made["expires"] else "until it is revoked"
    err.print(f"Token {made['id']} ({name}) is good {until}. Keep it: it is shown this once.")


@app.command("list")
def list_command(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
    as_json_: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Show the tokens, what each may do, and when it was last used."""
    with remote(site_dir, url) as client:
        items = client.get(PATH)["items"]
    if as_json_:
        typer.echo(as_json(items))
        return
    if not items:
        err.print("No tokens yet: `ostiary tokens create NAME --scope SCOPE` makes one.")
        return
    table = Table(box=None)
    for heading in ("id", "name", "scopes", "expires", "last used", "made by"):
        table.add_column(heading, overflow="fold")
    for item in items:
        cells = (
            item["id"],
            item["name"],
            " ".join(item["scopes"]),
            _minute(item["expires"]),
            _minute(item["last_used"]),
            item["created_by"],
        )
        table.add_row(*(Text(printable(str(cell))) for cell in cells))
    out.print(table)


def _minute(time: str | None) -> str:
    return "-" if time is None else f"{time[:16]}Z"


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(help="Its id or its name.")],
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Withdraw a token: the next request with it is refused."""
    with remote(site_dir, url) as client:
        found = [t for t in client.get(PATH)["items"] if token in (t["id"], t["name"])]
        if not found:
            fail(f"there is no token {token}; see `ostiary tokens list`")
        client.delete(f"{PATH}/{found[0]['id']}")
    out.print(f"Token {found[0]['id']} ({found[0]['name']}) is revoked.")
