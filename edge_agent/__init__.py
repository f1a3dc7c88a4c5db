"""The Ostiary edge agent: decides at the door."""

__version__ = "0.1.0"
