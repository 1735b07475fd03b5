"""What of a worker's messages was not taken, as text: the one place that makes a sentence of each kind.

Owns those texts; knows neither who found it nor who shows it.
"""

from __future__ import annotations

from collections.abc import Mapping

MAX_METRICS = 64
MAX_NAME = 100
MAX_DATAGRAM = 65_536
_KEYS = "READY, WATCHDOG, STATUS, X_STEP, X_PROGRESS, X_PRIMARY, X_METRIC_<name>"
_NUMBERS = {"X_STEP": "no whole number", "X_PROGRESS": "no finite number"}


def texts(passed_over: Mapping[str, str]) -> list[str]:
    """A sentence for each kind in a record's ``passed_over``: ``X_METRIC_loss=1,5 is no number``."""
    return [_text(kind, given) for kind, given in sorted(passed_over.items())]


def _text(kind: str, given: str) -> str:
    if kind == "value":
        return f"{given} is {_not_a_value(given.partition('=')[0])}"
    if kind == "name":
        return f"{given!r} is no name of a metric (1 to {MAX_NAME} characters that print, no = and no space at an end)"
    if kind == "key":
        return f"{given} is no key (there are {_KEYS})"
    if kind == "too_many":
        return f"{given} is beyond the {MAX_METRICS} metrics that an attempt may have"
    if kind == "cut":
        return f"what came after the first {MAX_DATAGRAM:,} bytes of a message"
    return f"{given} ({kind})"  # a newer release's


def _not_a_value(key: str) -> str:
    if key in ("READY", "WATCHDOG"):
        return f"not {key}=1"
    return _NUMBERS.get(key, "no number")
