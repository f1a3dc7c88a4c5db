"""How anything is said to agents: one message on one topic of the broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

Publish = Callable[[str, bytes, bool], Awaitable[None]]
"""(topic, payload, retain); raises ConnectionError while there is no broker."""
