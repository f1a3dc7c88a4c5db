"""`ostiary reinstate`: let a card or a person in again that was revoked."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from server.cli.console import DEFAULT_SITE_DIR, SiteDir, fail, out
from server.cli.remote import Refused, Remote, Url, remote
from server.cli.revoke import PATH as REVOCATIONS


class Kind(StrEnum):
    """What can be revoked and let in again."""

    CARD = "card"
    PERSON = "person"


def reinstate(
    kind: Annotated[Kind, typer.Argument(help="What it is.")],
    name: Annotated[str, typer.Argument(help="The card's or person's id.")],
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    url: Url = None,
) -> None:
    """Answer all revocations of a card or a person until now.

    The log keeps them; a later one counts again. A person's cards that were revoked themselves stay
    so, and a card stays denied while its holder is. Doors follow with their next policy.
    """
    name = name.lower() if kind is Kind.CARD else name
    with remote(site_dir, url) as client:
        try:
            made = client.post(f"/api/v1/{kind}s/{name}/reinstate")
        except Refused as refusal:
            if refusal.kind != "no-such-object" or not _was_revoked(client, kind, name):
                raise
            fail(
                f"{kind} {name} was revoked, but is not in the model, which keeps what is let in:"
                " add it with `ostiary apply` or through the API, then reinstate it"
            )
    out.print(f"{kind.capitalize()} {name}: revocations up to {made['cleared']} are answered.")


def _was_revoked(client: Remote, kind: Kind, name: str) -> bool:
    query = {"kind": kind.value, "subject": name, "limit": 1}
    return bool(client.get(REVOCATIONS, **query)["items"])
