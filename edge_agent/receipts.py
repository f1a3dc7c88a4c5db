"""Tells the server, for the record, what is in force at the doors.

A receipt is an event: it follows what is durable and was acted on, and a kill may come in between.
So what was receipted is noted, and what was not is receipted with the next heartbeat, or at the
next start: at least once.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from edge_agent.log import log
from edge_agent.recorder import Recorder
from edge_agent.trust_store import TrustStore


class Receipts:
    """Compares what is in force with what the server was told."""

    def __init__(self, store: TrustStore, recorder: Recorder) -> None:
        self._store = store
        self._recorder = recorder

    async def catch_up(self) -> None:
        """At the start: what the last run did not come to say. No root is new to a new agent."""
        if "root" not in self._store.notes:
            await self._note({"root": self._marks()["root"]})
        await self.give()

    async def give(self, *, snapshot: bool = False) -> None:
        """Record a receipt for all that changed; `snapshot`: the revocations came as one."""
        marks, told = self._marks(), self._store.notes
        fresh = {what for what, mark in marks.items() if told.get(what) != mark}
        receipts = [(f"{what}.applied", self._data(what, snapshot)) for what in sorted(fresh)]
        for name, data in receipts:
            log.info(name.replace(".", "_"), **data)
        drafts = [self._recorder.about_agent(name, **data) for name, data in receipts]
        if drafts and await self._recorder.record_soon(drafts):
            await self._note(marks)

    def _marks(self) -> dict[str, str]:
        """What is in force, by what tells it from any other."""
        state = self._store.state
        marks = {"root": str(state.root.version)}
        if state.policy_hash is not None:
            marks["policy"] = state.policy_hash
        if state.revocation.sequence:
            marks["revocation"] = f"{state.revocation.sequence} {state.revocation.hash}"
        if state.lockdowns is not None and state.lockdowns.counter:
            marks["lockdown"] = state.digest(state.lockdowns.model_dump_json().encode())
        return marks

    def _data(self, what: str, snapshot: bool) -> dict[str, Any]:
        state = self._store.state
        match what:
            case "root":
                return {"version": state.root.version}
            case "policy":
                assert state.policy is not None
                return {"policy_version": state.policy.counter, "hash": state.policy_hash}
            case "revocation":
                head = state.revocation
                before = int(self._store.notes.get(what, "0").split()[0])
                return {
                    "sequence": head.sequence,
                    "hash": head.hash,
                    "entries": max(0, head.sequence - before),
                    "snapshot": snapshot,
                }
            case _:
                assert state.lockdowns is not None
                return {"counter": state.lockdowns.counter, "doors": self._store.locked_down()}

    async def _note(self, marks: dict[str, str]) -> None:
        try:
            await self._store.note(marks)
        except sqlite3.Error as error:
            log.error("receipt_not_noted", why=str(error))  # it is given again at the next start
