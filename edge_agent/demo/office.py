"""The operator of the demo: enrols, describes the site, revokes; all through the server's API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
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
