"""The `ostiary` command."""

from __future__ import annotations

from server.cli.root import main

__all__ = ["main"]
