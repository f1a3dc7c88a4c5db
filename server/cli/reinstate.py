"""`ostiary reinstate`: let a card or a person in again that was revoked."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from server.cli.console import DEFAULT_SITE_DIR, SiteDir, out
from server.cli.remote import Url, remote


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
    with remote(site_dir, url) as client:
        made = client.post(f"/api/v1/{kind}s/{name}/reinstate")
    out.print(f"{kind.capitalize()} {name}: revocations up to {made['cleared']} are answered.")
