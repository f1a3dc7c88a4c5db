"""`ostiary apply` and `ostiary export`: a site as a file that people read, compare and keep."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.strict_json import NotStrictJson, read_json
from server.cli.console import DEFAULT_SITE_DIR, SiteDir, confirm, err, fail, out
from server.cli.remote import Remote, Url, remote
from server.cli.site_yaml import BadYaml, read_yaml, write_yaml
from server.feed.cloudevents import as_json
from server.ingest.alarms import printable

PATH = "/api/v1/site-document"
_SHOWN = 100
_SIGNS = {"created": ("+", "green"), "updated": ("~", "yellow"), "deleted": ("-", "red")}


def apply(
    file: Annotated[Path, typer.Argument(help="The site as YAML or JSON; `-`: standard input.")],
    *,
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what a section of the file doesn't list.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The server's answer, as JSON.")] = False,
) -> None:
    """Make the site what the file says, in one change: all of it, or nothing.

    Sections that are not in the file stay as they are. What would change is shown first; if the
    site changes between that and your answer, nothing is done.
    """
    document = _read(file)
    with remote(site_dir, url) as client:
        plan = _post(client, document, prune=prune, dry_run=True)
        if json and (dry_run or not yes):
            typer.echo(as_json(plan))
        elif not json:
            _show(plan)
        if dry_run or not plan["steps"]:
            return
        if not yes:
            confirm("Apply this?")
        done = _post(client, document, prune=prune, dry_run=False, revision=plan["revision"])
        if json:
            typer.echo(as_json(done))
        else:
            out.print(f"Applied as revision {done['revision']} of the model.")


def export(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="A new file; standard output by default.")
    ] = None,
) -> None:
    """Write the whole site as YAML, in a fixed order; `ostiary apply` of it changes nothing."""
    with remote(site_dir, url) as client:
        text = write_yaml(client.get(PATH))
    if out_file is None:
        sys.stdout.write(text)
        return
    try:
        with out_file.open("x") as stream:
            stream.write(text)
    except OSError as error:
        fail(f"{out_file}: {error.strerror}; choose a file that is not there yet")


def _read(file: Path) -> dict[str, Any]:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        document = read_json(data) if file.suffix == ".json" else read_yaml(data)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    except (BadYaml, NotStrictJson) as error:
        fail(f"{file}: {printable(str(error))}")
    if not isinstance(document, dict):
        fail(f"{file} holds no mapping: it should have sections such as `doors:` and `persons:`")
    return document


def _post(
    client: Remote,
    document: dict[str, Any],
    *,
    prune: bool,
    dry_run: bool,
    revision: int | None = None,
) -> Any:
    query = {"prune": str(prune).lower(), "dry_run": str(dry_run).lower()}
    headers = {} if revision is None else {"If-Match": f'"{revision}"'}
    return client.call("POST", PATH, body=document, query=query, headers=headers).json()


def _show(plan: dict[str, Any]) -> None:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for step in plan["steps"]:
        by_kind.setdefault(step["kind"], []).append(step)
    for kind, steps in by_kind.items():
        out.print(f"[bold]{kind}[/]")
        for step in steps[:_SHOWN]:
            sign, colour = _SIGNS[step["action"]]
            out.print(f"  {sign} {step['id']}", style=colour, markup=False)
            for each in step["differences"]:
                before, after = (as_json(each[side]) for side in ("before", "after"))
                line = f"      {each['path']}: {before} -> {after}"
                out.print(printable(line), markup=False)
        if len(steps) > _SHOWN:
            out.print(f"  ... and {len(steps) - _SHOWN} more")
    counts = {action: _count(plan["steps"], action) for action in _SIGNS}
    if plan["steps"]:
        out.print(
            f"{counts['created']} to create, {counts['updated']} to change, "
            f"{counts['deleted']} to delete."
        )
    else:
        out.print("The site is what the file says: nothing to change.")
    if plan["unlisted"]:
        shown = ", ".join(f"{kind} {key}" for kind, key in plan["unlisted"][:5])
        more = " ..." if len(plan["unlisted"]) > 5 else ""
        err.print(
            f"{len(plan['unlisted'])} not in the file stay as they are ({shown}{more}); "
            "--prune would delete them.",
            markup=False,
        )


def _count(steps: Iterable[dict[str, Any]], action: str) -> int:
    return sum(step["action"] == action for step in steps)
