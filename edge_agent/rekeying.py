"""Gives a card that has just opened the door the key version that the door's policy prefers.

The holder is on the way through already: whatever goes wrong here disturbs no passage, and a card
that is taken away meanwhile opens as before, and is given the version at its next tap.
"""

from __future__ import annotations

import asyncio

from edge_agent.card.rekeying import RekeyOutcome, rekey
from edge_agent.card.session import perform
from edge_agent.house import House
from edge_agent.log import log
from edge_agent.readers.port import CardChannel, CardRemoved
from edge_agent.secure_element.port import ElementUnavailable
from edge_agent.tap import Lacking

REKEY_TIMEOUT_S = 5.0
"""The reader takes no other card meanwhile."""


class Rekeying:
    """Re-keys cards at one door."""

    def __init__(self, door: str, house: House) -> None:
        self._door = door
        self._house = house

    async def give(self, card: CardChannel, lacking: Lacking) -> None:
        """Re-key the card, and record that or why not.

        Nothing, if it was taken away, or if the door asks for something else by now.
        """
        house, question = self._house, lacking.question
        if question != house.question(house.view(self._door)):
            return
        with house.elements.giving.by(question):
            await self._give(card, lacking)

    async def _give(self, card: CardChannel, lacking: Lacking) -> None:
        house, question = self._house, lacking.question
        element = house.elements.get(question.domain, question.suite)
        script = rekey(lacking.card_id, question, lacking.from_version, house.random)
        try:
            async with asyncio.timeout(REKEY_TIMEOUT_S):
                outcome = await perform(script, card, element, house.recorder.clock)
        except CardRemoved as error:
            log.info("card_removed", door=self._door, card=lacking.card_id.hex(), why=str(error))
        except TimeoutError:
            await self._refused(lacking, f"it took more than {REKEY_TIMEOUT_S:g} s")
        except ElementUnavailable as error:
            await self._refused(lacking, str(error))
        except Exception as error:  # the door is open: nothing here may end the reader's task
            log.exception("rekey_failed", door=self._door, card=lacking.card_id.hex())
            await self._refused(lacking, f"{type(error).__name__}: {error}")
        else:
            if outcome is RekeyOutcome.REKEYED:
                await self._record("card.rekeyed", lacking)
            else:
                await self._refused(lacking, str(outcome))

    async def _refused(self, lacking: Lacking, detail: str) -> None:
        await self._record("card.not_rekeyed", lacking, detail=detail[:200])

    async def _record(self, name: str, lacking: Lacking, **more: str) -> None:
        recorder, question = self._house.recorder, lacking.question
        draft = recorder.about_door(
            name,
            self._door,
            card=lacking.card_id.hex(),
            domain=question.domain,
            from_version=lacking.from_version,
            key_version=question.key_version,
            **more,
        )
        await recorder.record_soon([draft])
