"""What a thief with good equipment can make: everything a card shows, but not the keys it hides."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from edge_agent.card.application import UnlockQuestion
from edge_agent.card.binding import BindOutcome, bind
from edge_agent.card.session import listed, perform
from edge_agent.clock import SystemClock
from edge_agent.readers.virtual import VirtualCardChannel
from edge_agent.secure_element.port import Purpose
from edge_agent.secure_element.software import SoftwareElement
from edge_agent.virtual.card_os import VirtualCard
from schemas.suites import SuiteName, suite
from schemas.suites.suite import KEY_BYTES


async def copied_card(
    path: Path, serial: bytes, suite_name: SuiteName, site: str, domains: Sequence[str]
) -> VirtualCard:
    """A card with another card's serial and applications, and keys of the thief's own making."""
    transport_key = secrets.token_bytes(KEY_BYTES)
    card = VirtualCard(path, suite_name, serial, transport_key, secrets.token_bytes)
    clock = SystemClock()
    for domain in domains:
        guessed = {purpose: secrets.token_bytes(KEY_BYTES) for purpose in Purpose}
        result = await perform(
            bind(UnlockQuestion(site, domain, suite_name, key_version=1), secrets.token_bytes),
            VirtualCardChannel(card.respond, clock.monotonic()),
            SoftwareElement(suite(suite_name), {1: guessed}),
            clock,
            listed({serial.hex(): transport_key}),
        )
        assert result.outcome is BindOutcome.BOUND, result
        card.reset()
    return card
