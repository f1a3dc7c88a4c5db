"""The cards that are being given keys at this moment, each by the question it was asked at first.

A policy that comes meanwhile changes nothing for them. So until what came of a card is recorded its
lock must not be known to ask for another version: the one that the card gets might be ended, as if
no card were given it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_agent.card.application import UnlockQuestion


class Giving:
    """The cards of all doors of one agent."""

    def __init__(self) -> None:
        self.ended: Callable[[], None] = lambda: None
        """Called after each card."""
        self._questions: list[UnlockQuestion] = []

    @contextmanager
    def by(self, question: UnlockQuestion) -> Iterator[None]:
        """Enter it with what the door asks now; leave it when what came of it is recorded."""
        self._questions.append(question)
        try:
            yield
        finally:
            self._questions.remove(question)
            self.ended()

    def other_than(self, version: int, domain: str) -> UnlockQuestion | None:
        """By what the first card of this domain is given another version; None: none is."""
        for question in self._questions:
            if question.domain == domain and question.key_version != version:
                return question
        return None
