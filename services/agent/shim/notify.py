"""Reads sd_notify datagrams: what a worker reports of itself.

Owns the keys and their bounds; knows no socket and no clock. Whatever a worker sends, nothing here raises.
"""

from __future__ import annotations

import math
import re

from services.agent.shim.core import MAX_METRICS
from services.agent.shim.core_types import Fields

MAX_DATAGRAM = 8192
"""Bytes of one datagram that are read; the rest is cut off."""
MAX_STATUS = 512
"""Characters of STATUS that are kept."""
_MAX_INTEGER = 2**53 - 1
_METRIC = re.compile(r"X_METRIC_([A-Za-z0-9_.:/-]{1,64})\Z")


def parse(datagram: bytes) -> Fields | None:
    """What the datagram says; None where it has no known key with a usable value, and so is no heartbeat."""
    known = ready = False
    status: str | None = None
    step: int | None = None
    progress: float | None = None
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
                number = _integer(value)
                if number is not None:
                    step, known = number, True
            case "X_PROGRESS":
                share = _number(value)
                if share is not None:
                    progress, known = share, True
            case _:
                named = _METRIC.match(key)
                measure = _number(value) if named is not None else None
                if named is not None and measure is not None and len(metrics) < MAX_METRICS:
                    metrics[named[1]] = measure
                    known = True
    if not known:
        return None
    return Fields(
        ready=ready, step=step, progress=progress, status_text=status, metrics=tuple(metrics.items())
    )


def _number(text: str) -> float | None:
    if len(text) > 64:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _integer(text: str) -> int | None:
    value = _number(text)
    if value is None or not value.is_integer() or abs(value) > _MAX_INTEGER:
        return None
    return int(value)
