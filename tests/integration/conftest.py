"""Fixtures that several integration tests use."""

from tests.broker import mosquitto, tls_mosquitto

__all__ = ["mosquitto", "tls_mosquitto"]
