"""`ostiary policy`: what doors are told to enforce. It follows the model by itself."""

from __future__ import annotations

import base64
import json
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from server.cli.console import DEFAULT_SITE_DIR, SiteDir, err, fail, out
from server.cli.remote import Url, remote
from server.ingest.alarms import printable

app = typer.Typer(help="What doors are told to enforce.", no_args_is_help=True)
PATH = "/api/v1/policies"


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Show each agent's newest policy, and the one it has confirmed to enforce.

    Exit code 3 if a policy could not be made: see `failure`.
    """
    with remote(site_dir, url) as client:
        items = client.get(PATH)["items"]
    if as_json:
        typer.echo(json.dumps(items))
    elif not items:
        err.print("No policies yet: describe the doors in a file and use `ostiary apply`.")
    else:
        table = Table(box=None)
        for heading in ("agent", "newest", "applied", "cards", "issued", "failure"):
            table.add_column(heading, overflow="fold")
        for each in items:
            shown = [each[n] for n in ("agent", "version", "applied", "cards", "issued", "failure")]
            table.add_row(*(Text(printable("-" if v is None else str(v))) for v in shown))
        out.print(table)
    if any(each["failure"] for each in items):
        raise typer.Exit(3)


@app.command()
def show(
    agent: Annotated[str, typer.Argument(help="Whose policy.")],
    envelope: Annotated[
        bool, typer.Option("--envelope", help="As it was signed, to verify it elsewhere.")
    ] = False,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Show an agent's newest policy as JSON: doors, rules, schedules, and digests of its cards."""
    with remote(site_dir, url) as client:
        signed = client.get(f"{PATH}/{agent}")
    if envelope:
        typer.echo(json.dumps(signed))
        return
    try:
        policy = json.loads(base64.b64decode(signed["payload"]))
    except (KeyError, ValueError) as error:
        fail(f"the server's answer is not a signed policy: {error}")
    typer.echo(json.dumps(policy, indent=2, ensure_ascii=True))
