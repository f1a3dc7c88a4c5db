"""The public HTTP API. What the live page does, anyone can do."""

from server.api.build import build_api

__all__ = ["build_api"]
