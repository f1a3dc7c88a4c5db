"""The agent's log: one JSON object a line on standard error; `event` says what happened."""

from __future__ import annotations

import logging
import sys

import structlog

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def configure_log(level: str) -> None:
    """Write lines of `level` (debug, info, warning, error) and above, other libraries' too."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # looked up at each line: whoever captures standard error for a while may close it after
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


def first_cause(error: BaseException) -> BaseException:
    """What to tell of a failed task group: a person reads one reason, not a tree of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
