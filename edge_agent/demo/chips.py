"""Chips of the demo: an ESAM in each lock that shares its keys, and cards as makers sell them.

Two kinds of key domain stand side by side: the first doors share one, whose keys the server's key
authority makes and their ESAMs hold; every other door has a secret of its own.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from edge_agent.demo.cast import CAST, NEWCOMER
from edge_agent.demo.forgery import copied_card
from edge_agent.demo.processes import command, run
from edge_agent.files import write_private
from edge_agent.virtual.card_os import VirtualCard
from schemas.suites import SuiteName
from schemas.suites.suite import KEY_BYTES

SHARED = "shared"
"""The key domain of the first doors."""
SHARING = 2
"""How many doors share it."""


async def make_shared_domain(site: Path, suite: SuiteName) -> None:
    """Version 1 of its keys, at the key authority."""
    await run(command("ostiary", "keys", "create", SHARED, "--suite", suite, "--site-dir", site))


class EsamMaker:
    """Issues ESAMs at the door and makes them known to the key authority."""

    def __init__(self, folder: Path, suite: SuiteName) -> None:
        folder.mkdir()
        self._folder, self._suite = folder, suite

    async def issue(self, agent: str, chip: Path) -> str:
        """A new virtual ESAM in the file `chip`; its serial in hex."""
        printed = await run(
            command(
                *("ostiary-agent", "esam", "issue", "--virtual", chip, "--suite", self._suite),
                *("--file", self._file(agent), "--issuing-key", self._key),
            )
        )
        return printed.strip()

    async def import_into(self, site: Path, agent: str) -> None:
        """Let the key authority write to that agent's ESAM."""
        await run(
            command(
                *("ostiary", "keys", "esams", "import", self._file(agent), "--agent", agent),
                *("--issuing-key", self._key, "--domain", SHARED, "--site-dir", site),
            )
        )

    @property
    def _key(self) -> Path:
        return self._folder / "issuing.key"

    def _file(self, agent: str) -> Path:
        return self._folder / f"{agent}.json"


async def make_cards(
    folder: Path, suite: SuiteName, site: str, domains: Sequence[str]
) -> dict[str, VirtualCard]:
    """Everybody's card, by name; `transport_keys` has the maker's list of their keys."""
    cards, rows = {}, [["card", "transport_key"]]
    for person in (*CAST, NEWCOMER):
        path = folder / f"{person.name}.card"
        if person.copies is not None:
            cards[person.name] = await copied_card(path, person.serial, suite, site, domains)
            continue
        key = secrets.token_bytes(KEY_BYTES)
        rows.append([person.serial.hex(), key.hex()])
        cards[person.name] = VirtualCard(path, suite, person.serial, key, secrets.token_bytes)
    write_private(transport_keys(folder), "".join(f"{a},{b}\n" for a, b in rows).encode())
    return cards


def transport_keys(folder: Path) -> Path:
    """The maker's list in the cards' folder."""
    return folder / "transport_keys.csv"


def esam_settings(chip: Path, serial: str) -> str:
    """The part of `agent.toml` that names the lock's ESAM."""
    return f"""
[[esams]]
kind = "virtual"
path = {json.dumps(str(chip))}
serial = "{serial}"
domains = ["{SHARED}"]
"""
