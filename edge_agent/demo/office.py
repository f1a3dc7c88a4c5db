"""The operator of the demo, all through the server's API.

Enrols, describes the site, binds cards, revokes, and gives the doors new keys.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from edge_agent.demo.processes import POLL_S, READY_S, ProcessFailed


class Office:
    """Speaks to the server at `url` with the token that it left in its site directory."""

    def __init__(self, url: str, site: Path) -> None:
        self._url, self._site = url, site

    async def apply(self, document: Mapping[str, Any]) -> None:
        """Make the site what the document says."""
        await self._call("POST", "/api/v1/site-document", document)

    async def claim(self, agent: str) -> str:
        """A claim code for a new agent."""
        answer = await self._call("POST", f"/api/v1/agents/{agent}/claim", {})
        return str(answer["code"])

    async def approve(self, agent: str, device: asyncio.Task[Any]) -> None:
        """Wait until the device asks, and let it in. Raises what `device` raises, if it fails."""
        async with asyncio.timeout(READY_S):
            while True:
                pending = await self._call("GET", "/api/v1/agents?pending=true")
                for item in pending["items"]:
                    if item["agent"] == agent:
                        key = {"keyid": item["claim"]["keyid"]}
                        await self._call("POST", f"/api/v1/agents/{agent}/approve", key)
                        return
                if device.done():
                    device.result()
                await asyncio.sleep(POLL_S)

    async def revoke(self, card: str, reason: str) -> None:
        """Deny the card at every door."""
        order = {"revocations": [{"kind": "card", "subject": card, "reason": reason}]}
        await self._call("POST", "/api/v1/revocations", order)

    async def open_window(self, door: str, person: str) -> str:
        """Open a binding window at the door's reader; its id, once the door has opened it."""
        order = {"kind": "bind", "person": person, "direction": "in", "seconds": 60}
        answer = await self._call("POST", f"/api/v1/doors/{door}/windows", order)
        await self.window_is(answer["command"], "open")
        return str(answer["command"])

    async def window_is(self, window: str, state: str) -> None:
        """Wait for the window to be in that state. Raises ProcessFailed for another end."""
        found = await self._until(
            f"/api/v1/windows/{window}",
            lambda answer: answer["state"] not in ("sent", "open") or answer["state"] == state,
        )
        if found["state"] != state:
            raise ProcessFailed(f"the window is {found['state']}, not {state}: {found}")

    async def rotate(self, domain: str) -> str:
        """Start to give the domain new keys; the campaign's id."""
        plan = await self._call("POST", "/api/v1/rotations", {"domain": domain})
        await self._call("POST", f"/api/v1/rotations/{plan['id']}/start", {})
        return str(plan["id"])

    async def rotation(self, id: str) -> dict[str, Any]:
        """How far a campaign is."""
        answer: dict[str, Any] = await self._call("GET", f"/api/v1/rotations/{id}")
        return answer

    async def rotation_is(self, id: str, state: str) -> None:
        """Wait until the campaign is in that state."""
        await self._until(f"/api/v1/rotations/{id}", lambda answer: answer["state"] == state)

    async def retire(self, id: str) -> None:
        """End the overlap, whoever has not come by since."""
        await self._call("POST", f"/api/v1/rotations/{id}/retire", {"leave_behind": True})

    async def key_versions(self, domain: str) -> dict[str, int]:
        """Which version of the domain's keys each card has."""
        answer = await self._call("GET", f"/api/v1/bindings?domain={domain}")
        return {item["card"]: item["key_version"] for item in answer["items"]}

    async def _until(self, path: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        try:
            async with asyncio.timeout(READY_S):
                while True:
                    answer = await self._call("GET", path)
                    if done(answer):
                        return answer
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise ProcessFailed(f"{path} is after {READY_S:.0f} s still {answer}") from None

    async def converged(self) -> None:
        """Return when every door has confirmed all that was decided. Raises ProcessFailed."""
        doors: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(READY_S):
                while True:
                    doors = (await self._call("GET", "/api/v1/doors/status"))["doors"]
                    if doors and all(map(_has_all, doors)):
                        return
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise ProcessFailed("\n".join(_behind(doors))) from None

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        token = json.loads((self._site / "run.json").read_bytes())["token"]
        async with httpx.AsyncClient(
            base_url=self._url, headers={"Authorization": f"Bearer {token}"}, trust_env=False
        ) as client:
            answer = await client.request(method, path, json=body, timeout=READY_S)
        if answer.is_error:
            raise ProcessFailed(f"{method} {path}: {answer.status_code} {answer.text[:1000]}")
        return answer.json() if answer.content else None


def _has_all(door: Mapping[str, Any]) -> bool:
    return door["state"] == "converged" and door["desired"]["policy"] is not None


def _behind(doors: list[dict[str, Any]]) -> Iterator[str]:
    yield f"not every door confirmed within {READY_S:.0f} s:"
    for door in doors:
        yield f"  {door['door']}: {door['state']} {', '.join(door['behind'])}"
