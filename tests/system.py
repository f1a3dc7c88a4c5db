"""What tests need from the operating system."""

from __future__ import annotations

import importlib
import os
import shutil
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


def _missing(message: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
