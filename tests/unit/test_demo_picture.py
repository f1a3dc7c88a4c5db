"""The demo's picture in the terminal."""

from __future__ import annotations

import asyncio
import io
import socket
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from typer.testing import CliRunner

from edge_agent.demo.cli import app
from edge_agent.demo.summary import Picture, show


def _event(name: str, **data: Any) -> dict[str, Any]:
    return {
        "type": f"io.ostiary.{name}.v1",
        "time": "2026-01-02T08:15:30.123456Z",
        "data": {"door": "front"} | data,
    }


def _drawn(picture: Picture) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    return [
        "".join(segment.text for segment in line).rstrip()
        for line in console.render_lines(picture.draw())
    ]


async def test_the_picture_is_drawn_while_the_demo_runs_and_not_only_at_its_end() -> None:
    asked_again = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if "after" not in request.url.params:
            page = {"events": [_event("access.granted", person="alice")], "next": "x"}
            return httpx.Response(200, json=page)
        asked_again.set()
        await asyncio.Event().wait()
        raise AssertionError

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    picture = Picture("http://127.0.0.1:8080/", "gm", ["front"])
    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(base_url="http://demo", transport=transport) as client:
        with Live(console=console, auto_refresh=False) as live:
            showing = asyncio.create_task(show(client, picture, live))
            await asked_again.wait()
            drawn = screen.getvalue()
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
    assert "alice" in drawn
    assert "granted 1" in drawn


def test_the_picture_keeps_its_height_while_events_come_in() -> None:
    picture = Picture("http://127.0.0.1:8080/", "gm", ["front"])
    heights = {len(_drawn(picture))}
    for _ in range(30):
        picture.add(_event("door.opened"))
        heights.add(len(_drawn(picture)))
    assert len(heights) == 1


def test_the_picture_shows_a_forced_door_until_it_is_closed() -> None:
    picture = Picture("http://127.0.0.1:8080/", "gm", ["front"])
    picture.add(_event("door.forced"))
    assert "  front  forced" in _drawn(picture)
    picture.add(_event("door.closed"))
    assert "  front  closed" in _drawn(picture)


def test_a_port_in_use_is_said_before_anything_is_set_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = CliRunner().invoke(app, ["--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1
    assert "is in use. Choose another" in result.stderr
