"""Fixtures that several integration tests use."""

from tests.broker import mosquitto

__all__ = ["mosquitto"]
