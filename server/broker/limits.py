"""How much one client may ask of a broker, whichever broker it is."""

from __future__ import annotations

from schemas.envelope import MAX_ENVELOPE_BYTES

MOST_PACKET_BYTES = MAX_ENVELOPE_BYTES + 1024
"""The longest message of ours, with its topic."""
MOST_IN_FLIGHT = 100
"""Messages of one client that are taken in, or sent to it, and not yet acknowledged."""
MOST_QUEUED = 10_000
"""Messages that wait for one client beyond those; a chunk of a policy is one."""
MOST_QUEUED_BYTES = 64 * 1024 * 1024
MOST_CONNECTIONS = 20_000
MOST_FILTERS = 64
"""Topic filters of one client."""
