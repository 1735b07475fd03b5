"""How a benchmark's figures are summed up and printed.

Owns medians, ranges and the facts of the machine; measures nothing.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: what was measured, its median with range, and the target that it is held against."""

    name: str
    median: float
    low: float
    high: float
    unit: str
    target: str = ""
    met: bool | None = None


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of them lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return percentile(values, 0.5)


def figure(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """Sum repeated measurements of one thing up, against a target."""
    middle = median(values)
    target, met = "", None
    if at_most is not None:
        target, met = f"≤ {at_most:g}", middle <= at_most
    elif at_least is not None:
        target, met = f"≥ {at_least:g}", middle >= at_least
    return Figure(
        name=name, median=middle, low=min(values), high=max(values), unit=unit, target=target, met=met
    )


def machine() -> str:
    """What these figures were taken on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0]
    return (
        f"{cores} cores, Python {platform.python_version()}, {sys.platform} {platform.release()}, "
        f"load {load:.1f} at this moment"
    )


def table(figures: Sequence[Figure]) -> str:
    """One line a figure, for people."""
    rows = [("what", "median", "range", "unit", "target", "")]
    for each in figures:
        verdict = "" if each.met is None else "met" if each.met else "missed"
        rows.append(
            (each.name, _number(each.median), f"{_number(each.low)} to {_number(each.high)}", each.unit)
            + (each.target, verdict)
        )
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
