"""Tells systemd that the agent is ready, and from then on that it is alive (sd_notify(3))."""

from __future__ import annotations

import asyncio
import os
import socket


class Notifier:
    """Speaks to NOTIFY_SOCKET, if there is one; else says nothing."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        usec = os.environ.get("WATCHDOG_USEC", "")
        self._watchdog_s = int(usec) / 1_000_000 if usec.isdigit() else None

    def ready(self) -> None:
        """The doors are served."""
        self._say("READY=1")

    def stopping(self) -> None:
        """The agent was told to end."""
        self._say("STOPPING=1")

    async def keep_alive(self) -> None:
        """Say so twice per watchdog period, for ever: an event loop that hangs does not."""
        if self._watchdog_s is None:
            return
        while True:
            self._say("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _say(self, message: str) -> None:
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]  # the abstract namespace, unix(7)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(message.encode(), address)
