"""structlog set-up: JSON lines for machines, or aligned text for a terminal. To standard error."""

from __future__ import annotations

import logging
import os

import structlog

from boxlited.stdio import STDERR, LossyStream


def configure_logging(log_format: str, level: str) -> None:
    """`log_format` is json or console; `level` one of debug, info, warning, error."""
    renderer: structlog.typing.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=os.isatty(STDERR))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=LossyStream(STDERR)),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
