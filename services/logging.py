"""Log lines of every service, on stderr: for people on a terminal, one JSON object a line otherwise.

Owns structlog's set-up; must not know what is logged. structlog (0.1 s) loads on first use, never on the help path.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TextIO

from services.settings import LogFormat, LogLevel

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

# In this order in each line, where they are bound.
KEYS = ("run_id", "attempt", "node", "seq")
_QUIET = ("asyncio", "sqlalchemy", "nats")


def configure(
    log_format: LogFormat = LogFormat.AUTO, level: LogLevel = LogLevel.INFO, *, stream: TextIO | None = None
) -> None:
    """Send structlog's and the standard library's log lines to ``stream`` (stderr), in one format.

    ``AUTO``: for people if the stream is a terminal, else JSON. Libraries (NATS, SQLAlchemy, asyncio) are heard from
    WARNING on, or with everything else at DEBUG. May be called again; the last call counts.
    """
    structlog = _structlog()
    out = stream or sys.stderr
    for_people = out.isatty() if log_format is LogFormat.AUTO else log_format is LogFormat.CONSOLE
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(
            fmt="%H:%M:%S" if for_people else "iso", utc=not for_people, key="time"
        ),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=KEYS)],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_console(out) if for_people else _json()),
            ],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if getattr(old, "of_trainshed", False)]:
        root.removeHandler(old)
    handler.of_trainshed = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET if level is LogLevel.DEBUG else logging.WARNING)
    logging.captureWarnings(True)


def get_logger(name: str, **bound: object) -> BoundLogger:
    """A logger called ``trainshed.<name>``, with what is bound to it for good (a node, say)."""
    logger: BoundLogger = _structlog().stdlib.get_logger(f"trainshed.{name}", **bound)
    return logger


def bound(
    *, run_id: str | None = None, attempt: int | None = None, node: str | None = None, seq: int | None = None
) -> AbstractContextManager[None]:
    """Bind what is given to every line logged inside the ``with``, by this task and the tasks that it starts.

    Lines of the standard library's loggers bear it as well.
    """
    given = {"run_id": run_id, "attempt": attempt, "node": node, "seq": seq}
    context: AbstractContextManager[None] = _structlog().contextvars.bound_contextvars(
        **{key: value for key, value in given.items() if value is not None}
    )
    return context


def _console(out: TextIO) -> list[Callable[..., Any]]:
    import os

    structlog = _structlog()
    dev = structlog.dev
    coloured = out.isatty() and "NO_COLOR" not in os.environ
    return [
        _ordered,
        dev.ConsoleRenderer(
            colors=coloured,
            sort_keys=False,
            timestamp_key="time",
            pad_event_to=0,
            exception_formatter=dev.plain_traceback,
        ),
    ]


def _json() -> list[Callable[..., Any]]:
    import json

    structlog = _structlog()

    def serialise(line: object, **_: object) -> str:
        # What is no JSON is shown by its repr, so that a log line is never lost to what it says.
        return json.dumps(line, default=repr, ensure_ascii=False, separators=(",", ":"))

    return [
        structlog.processors.format_exc_info,
        _ordered,
        structlog.processors.JSONRenderer(serializer=serialise),
    ]


def _ordered(_logger: object, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Time, level, logger and message first, then run, attempt, node and sequence, then the rest as it was given."""
    first = ("time", "level", "logger", "event", *KEYS)
    return {key: event[key] for key in first if key in event} | dict(event)


def _structlog() -> Any:
    """structlog, which takes 0.1 s to load: on first use."""
    import structlog

    return structlog
