"""Reads sd_notify datagrams: what a worker reports of itself.

Owns the keys and their bounds; knows no socket and no clock. Whatever a worker sends, nothing here raises.
"""

from __future__ import annotations

import json
import math

from services.agent.shim.core import MAX_METRICS
from services.agent.shim.core_types import Fields, PassedOver
from services.agent.shim.numbers import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DATAGRAM = 65_536
"""Bytes of one datagram that are read, up to its last whole line; the rest is passed over."""
MAX_STATUS = 512
"""Characters of STATUS that are kept."""
MAX_NAME = 100
"""Characters of a metric's name."""
MAX_SHOWN = 100
"""Characters that are shown of what was passed over."""
HANDED_IN = b"TRAINSHED_STDOUT\n"
"""How a datagram of the agent begins; JSON lines follow."""
_MAX_INTEGER = 2**53 - 1
_METRIC = "X_METRIC_"
_SYSTEMDS = "X_SYSTEMD_"
_SYSTEMDS_KEYS = frozenset(
    {
        "RELOADING",
        "STOPPING",
        "MONOTONIC_USEC",
        "NOTIFYACCESS",
        "ERRNO",
        "BUSERROR",
        "VARLINKERROR",
        "EXIT_STATUS",
    }
    | {"MAINPID", "MAINPIDFDID", "WATCHDOG_USEC", "EXTEND_TIMEOUT_USEC", "BARRIER", "INVOCATION_ID"}
    | {"FDSTORE", "FDSTOREREMOVE", "FDNAME", "FDPOLL"}
)
"""What other programs tell systemd, and a shim has no use for."""


def parse(datagram: bytes) -> Fields | None:
    """What the datagram says, were it only what cannot be taken, which is no sign of life; None where it says nothing to us.

    `datagram` may be cut, where it has more than MAX_DATAGRAM bytes.
    """
    alive = ready = False
    status: str | None = None
    step: int | None = None
    progress: float | None = None
    primary: str | None = None
    metrics: dict[str, float] = {}
    passed: dict[PassedOver, str] = {}
    if len(datagram) > MAX_DATAGRAM:
        datagram = datagram[: datagram.rfind(b"\n", 0, MAX_DATAGRAM + 1) + 1]
        passed[PassedOver.CUT] = ""
    for line in datagram.decode("utf-8", "replace").split("\n"):
        key, equals, value = line.partition("=")
        wrong: tuple[PassedOver, str] | None = None
        match key:
            case _ if not equals:
                if line.startswith("X_"):
                    wrong = PassedOver.KEY, line
            case "READY":
                ready = ready or value == "1"
                alive = alive or value == "1"
                if value not in ("0", "1"):
                    wrong = PassedOver.VALUE, line
            case "WATCHDOG":
                alive = alive or value == "1"
                if value not in ("trigger", "1"):
                    wrong = PassedOver.VALUE, line
            case "STATUS":
                status, alive = _printable(value, MAX_STATUS), True
            case "X_STEP":
                if (whole := _integer(value)) is None:
                    wrong = PassedOver.VALUE, line
                else:
                    step, alive = whole, True
            case "X_PROGRESS":
                if (share := number(value)) is None or not math.isfinite(share):
                    wrong = PassedOver.VALUE, line
                else:
                    progress, alive = share, True
            case "X_PRIMARY":
                if not is_name(value):
                    wrong = PassedOver.NAME, value
                else:
                    primary, alive = value, True
            case _ if key.startswith(_METRIC):
                name = key.removeprefix(_METRIC)
                if not is_name(name):
                    wrong = PassedOver.NAME, name
                elif (measure := number(value)) is None:
                    wrong = PassedOver.VALUE, line
                elif name not in metrics and len(metrics) >= MAX_METRICS:
                    wrong = PassedOver.TOO_MANY, name
                else:
                    metrics[name], alive = measure, True
            case _ if key not in _SYSTEMDS_KEYS and not key.startswith(_SYSTEMDS):
                wrong = PassedOver.KEY, key  # its value may be anything, so it is not shown
        if wrong is not None:
            passed.setdefault(wrong[0], _printable(wrong[1], MAX_SHOWN))
    if not alive and not passed:
        return None
    return Fields(
        alive=alive,
        ready=ready,
        step=step,
        progress=progress,
        status_text=status,
        primary_metric=primary,
        metrics=tuple(metrics.items()),
        passed_over=tuple(passed.items()),
    )


def handed_in(datagram: bytes) -> list[tuple[int, Fields]]:
    """What the agent hands in with a datagram that begins with HANDED_IN: lines of stdout, by where they begin there."""
    found = []
    for line in datagram.removeprefix(HANDED_IN).split(b"\n"):
        try:
            record = json.loads(line)
            offset, step, metrics = record["offset"], record["step"], record["metrics"].items()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # a worker that plays the agent harms itself alone
        if isinstance(offset, int) and (step is None or isinstance(step, int)):
            found.append((offset, of_line(step, metrics)))
    return found


def of_line(step: int | None, metrics: Iterable[tuple[str, object]]) -> Fields:
    """What a line of stdout measures, as if it had come in a datagram."""
    taken: dict[str, float] = {}
    passed: tuple[tuple[PassedOver, str], ...] = ()
    for name, value in metrics:
        measure = number(str(value))
        if measure is None:
            continue
        if is_name(name):
            taken[name] = measure
        elif not passed:
            passed = ((PassedOver.NAME, _printable(name, MAX_SHOWN)),)
    return Fields(step=step, metrics=tuple(taken.items()), passed_over=passed)


def is_name(text: str) -> bool:
    """Whether a metric may be called so: 1 to 100 characters that print, in UTF-8, no ``=``, no space at either end."""
    return (
        0 < len(text) <= MAX_NAME
        and text.isprintable()
        and text == text.strip()
        and "=" not in text
        and "\ufffd" not in text  # what no UTF-8 was decoded to
    )


def _printable(text: str, longest: int) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:longest])


def _integer(text: str) -> int | None:
    value = number(text)
    if value is None or not value.is_integer() or abs(value) > _MAX_INTEGER:
        return None
    return int(value)
