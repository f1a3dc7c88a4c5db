"""Says when an ESAM can't be used, and when it can again: one event for each change.

A tap that misses it is told at once; besides, each is looked at now and then, so that it is known
before somebody stands at the door.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from edge_agent.log import log
from edge_agent.recorder import Recorder
from edge_agent.secure_element.esam_chip import Esam

LOOK_S = 10.0


class EsamWatch:
    """Looks after all ESAMs of this agent."""

    def __init__(self, esams: Sequence[Esam], recorder: Recorder) -> None:
        self._esams = esams
        self._recorder = recorder
        self._told: dict[Esam, str | None] = dict.fromkeys(esams)
        self._changed = asyncio.Event()
        for esam in esams:
            esam.changed = self._changed.set

    async def run(self) -> None:
        """Watch, for ever."""
        while True:
            self._changed.clear()
            await self.tell()  # before looking, which may find it well again
            for esam in self._esams:
                await esam.look()
            await self.tell()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                pass  # time to look again

    async def tell(self) -> None:
        """Record what has changed since it was last told."""
        for esam in self._esams:
            trouble, recorder = esam.trouble, self._recorder
            reason = None if trouble is None else trouble.reason
            if reason == self._told[esam]:
                continue
            self._told[esam] = reason
            about = {"serial": esam.serial.hex(), "domains": esam.domains}
            if trouble is None:
                log.info("esam_available", **about)
                draft = recorder.about_agent("esam.unavailable.cleared", **about)
            else:
                log.error("esam_unavailable", **about, reason=reason, why=str(trouble))
                draft = recorder.about_agent(
                    "esam.unavailable", **about, reason=reason, detail=str(trouble)[:500]
                )
            await recorder.record_soon([draft])
