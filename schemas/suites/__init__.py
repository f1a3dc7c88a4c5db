"""The two algorithm suites, `gm` and `intl`, behind one interface."""

from schemas.suites.gm import GM
from schemas.suites.intl import INTL
from schemas.suites.suite import PrivateKey, PublicKey, RandomBytes, Suite, SuiteName, keyid, spki

__all__ = [
    "GM",
    "INTL",
    "PrivateKey",
    "PublicKey",
    "RandomBytes",
    "Suite",
    "SuiteName",
    "keyid",
    "spki",
    "suite",
]


def suite(name: SuiteName) -> Suite:
    """The suite a site or a key domain has chosen."""
    return GM if name == "gm" else INTL
