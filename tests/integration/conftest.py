"""Fixtures that several integration tests use."""

from tests.broker import mosquitto
from tests.broker_rig import secured, secured_builtin, secured_mosquitto

__all__ = ["mosquitto", "secured", "secured_builtin", "secured_mosquitto"]
