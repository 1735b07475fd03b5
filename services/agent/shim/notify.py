"""Reads sd_notify datagrams: what a worker reports of itself.

Owns the keys and their bounds; knows no socket and no clock. Whatever a worker sends, nothing here raises.
"""

from __future__ import annotations

import math

from services.agent.shim.core import MAX_METRICS
from services.agent.shim.core_types import Fields
from services.agent.shim.numbers import number

MAX_DATAGRAM = 8192
"""Bytes of one datagram that are read; the rest is cut off."""
MAX_STATUS = 512
"""Characters of STATUS that are kept."""
MAX_NAME = 100
"""Characters of a metric's name."""
_MAX_INTEGER = 2**53 - 1
_METRIC = "X_METRIC_"


def parse(datagram: bytes) -> Fields | None:
    """What the datagram says; None where it has no known key with a usable value, and so is no heartbeat."""
    known = ready = False
    status: str | None = None
    step: int | None = None
    progress: float | None = None
    primary: str | None = None
    metrics: dict[str, float] = {}
    for line in datagram[:MAX_DATAGRAM].decode("utf-8", "replace").split("\n"):
        key, equals, value = line.partition("=")
        if not equals:
            continue
        match key:
            case "READY":
                ready = ready or value == "1"
                known = known or value == "1"
            case "WATCHDOG":
                known = known or value == "1"
            case "STATUS":
                status = "".join(
                    character if character.isprintable() else " " for character in value[:MAX_STATUS]
                )
                known = True
            case "X_STEP":
                whole = _integer(value)
                if whole is not None:
                    step, known = whole, True
            case "X_PROGRESS":
                share = number(value)
                if share is not None and math.isfinite(share):
                    progress, known = share, True
            case "X_PRIMARY":
                if is_name(value):
                    primary, known = value, True
            case _ if key.startswith(_METRIC):
                name, measure = key.removeprefix(_METRIC), number(value)
                if is_name(name) and measure is not None and len(metrics) < MAX_METRICS:
                    metrics[name] = measure
                    known = True
    if not known:
        return None
    return Fields(
        ready=ready,
        step=step,
        progress=progress,
        status_text=status,
        primary_metric=primary,
        metrics=tuple(metrics.items()),
    )


def is_name(text: str) -> bool:
    """Whether a metric may be called so: 1 to 100 characters that print, in UTF-8, no ``=``, no space at either end."""
    return (
        0 < len(text) <= MAX_NAME
        and text.isprintable()
        and text == text.strip()
        and "=" not in text
        and "\ufffd" not in text  # what no UTF-8 was decoded to
    )


def _integer(text: str) -> int | None:
    value = number(text)
    if value is None or not value.is_integer() or abs(value) > _MAX_INTEGER:
        return None
    return int(value)
