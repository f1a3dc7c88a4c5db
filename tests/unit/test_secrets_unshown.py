"""No representation of what holds a key, a PIN, a share or a token shows it.

What is logged by mistake, or stands in a traceback, is the representation of something.
"""

from __future__ import annotations

import dataclasses
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from inspect import getmembers, isclass

from pydantic import BaseModel

import edge_agent
import schemas
import server
from edge_agent.secure_element.esam_chip import Loan

SECRET = re.compile(
    r"(?:^|_)(?:key|kek|secrets?|token|pin|password|passphrases?|shares|scalar|code)$"
    r"|^(?:versions|keys|body|database)$"
)
"""Names of fields. What is of no type that could hold a secret is none."""
HOLDS = re.compile(r"\b(?:bytes|str|KeyHex|KeysHex)\b|StringConstraints")

SHOWN = {
    "schemas.keys.KeyPackage.body": "enciphered under an ESAM's control key",
    "schemas.server_event_data.TokenChanged.token": "its number",
    "server.broker.stage.Stage._token": "tells one check from another",
    "server.config.ServerConfig.pkcs11_token": "its label",
    "server.keys.issuing._Made.body": "of a package",
    "server.store.enrolments.Issued.key": "the digest of a public key",
}
"""What is called so and is no secret, and why."""


def shown() -> Iterator[tuple[str, str]]:
    """Name and type of each field that a representation shows."""
    for package in (schemas, edge_agent, server):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.endswith("__main__") or ".migrations." in found.name:
                continue
            module = import_module(found.name)
            for name, kind in getmembers(module, isclass):
                if kind.__module__ == found.name:
                    for field, type_ in fields(kind):
                        yield f"{found.name}.{name}.{field}", type_


def fields(kind: type) -> Iterator[tuple[str, str]]:
    if issubclass(kind, BaseModel):
        for name, info in kind.model_fields.items():
            if info.repr:
                yield name, str(kind.__annotations__.get(name, info.annotation))
    elif dataclasses.is_dataclass(kind):
        generated = hasattr(kind.__repr__, "__wrapped__")
        for each in dataclasses.fields(kind):
            if each.repr and generated:
                yield each.name, str(each.type)


def test_no_representation_shows_what_is_secret():
    suspects = {
        field
        for field, type_ in shown()
        if SECRET.search(field.rpartition(".")[2]) and HOLDS.search(type_)
    }
    assert suspects - SHOWN.keys() == set()
    assert SHOWN.keys() <= suspects, "what is not there any more needs no excuse"


def test_a_loan_does_not_show_the_cards_key():
    key = bytes(range(200, 216))
    loan = Loan(1, 2, bytes(8), key)
    for said in (repr(loan), str(loan)):
        assert str(key) not in said
        assert repr(key) not in said
    assert "version=2" in repr(loan)
