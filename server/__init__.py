"""The Ostiary server: keeps what doors signed, and serves it."""

__version__ = "0.1.0"
