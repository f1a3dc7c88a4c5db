"""Both logs: a line goes to what standard error is at that moment."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr

import pytest
import structlog

import edge_agent.log
import server.log


@pytest.fixture
def untouched() -> Iterator[None]:
    """What others have set up comes back after the test."""
    config, handlers = structlog.get_config(), logging.root.handlers[:]
    yield
    structlog.configure(**config)
    logging.root.handlers[:] = handlers


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "configure", [server.log.configure_log, lambda: edge_agent.log.configure_log("info")]
)
def test_a_log_outlives_a_standard_error_that_was_closed(configure: Callable[[], None]) -> None:
    log = structlog.get_logger()
    closed = io.StringIO()
    with redirect_stderr(closed):
        configure()
        log.warning("before")
    closed.close()
    with redirect_stderr(io.StringIO()) as now:
        log.warning("after")
    assert '"event": "after"' in now.getvalue()
