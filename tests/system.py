"""What tests need from the operating system."""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest


def require_program(name: str, debian_package: str) -> str:
    """The path of a program; where it's missing the test is skipped, but fails under CI=true."""
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        _missing(f"{name} is not installed; install it with: apt-get install {debian_package}")
    return path


def require_module(name: str, install: str) -> ModuleType:
    """An optional Python module, on the same terms."""
    try:
        return importlib.import_module(name)
    except ImportError:
        _missing(f"the module {name} is not installed; install it with: {install}")


@contextmanager
def alone_with(thing: str) -> Iterator[None]:
    """Wait until no other test process of this machine uses `thing`, and keep it meanwhile."""
    with (Path(tempfile.gettempdir()) / f"ostiary-tests-{thing}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _missing(message: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
