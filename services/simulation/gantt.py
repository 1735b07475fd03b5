"""A Gantt chart of timetables as SVG text: a row for each slot, or for each node where there are many, and who waited.

Owns the picture; knows no scheduler and no file. Pure.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import NamedTuple

from events.run_machine import SECOND_NS
from services.simulation.timetable import Job, Span, Timetable, spans_of
from trainshed_client.rendering.durations import format_duration

WIDTH, LEFT, RIGHT, ROW, TITLE, QUEUE, AXIS = 1200, 130, 40, 10, 26, 50, 24
MOST_ROWS = 128
STEPS = 400
"""Where a row is a node, its time is cut in so many pieces, each as dark as it was full."""
_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#9c755f", "#d4a72c")


class Panel(NamedTuple):
    """One timetable with its title."""

    title: str
    timetable: Timetable


class _Axis(NamedTuple):
    """The time that all panels have in common."""

    begin_ns: int
    end_ns: int

    def x(self, at_ns: int) -> float:
        part = (at_ns - self.begin_ns) / max(1, self.end_ns - self.begin_ns)
        return LEFT + part * (WIDTH - LEFT - RIGHT)


def gantt(panels: Sequence[Panel]) -> str:
    """The panels one below the other, over one axis of time."""
    tables = [panel.timetable for panel in panels]
    begins = [job.submit_ns for table in tables for job in table.jobs.values()]
    ends = [_end(span, table) for table in tables for _, span in spans_of(table.jobs.values())]
    axis = _Axis(min(begins, default=0), max([*begins, *ends], default=SECOND_NS))
    body: list[str] = []
    top = 0
    for panel in panels:
        rows = _rows(panel.timetable)
        body.append(_text(10, top + 18, f"{panel.title}{_remark(panel.timetable, rows)}", size=13))
        top += TITLE
        body += _labels(rows, top)
        slots = sum(panel.timetable.nodes.values())
        drawn = _bars if slots <= MOST_ROWS else _shades
        body += drawn(panel.timetable, rows, top, axis)
        top += ROW * len(rows) + 6
        body += _queue(panel.timetable, top, axis)
        top += QUEUE
        body += _ticks(top, axis, top - QUEUE - 6 - ROW * len(rows))
        top += AXIS
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}">'
        f'<rect width="{WIDTH}" height="{top}" fill="#fff"/>{"".join(body)}</svg>\n'
    )


_Row = tuple[str, int | None]
"""A node and its slot; None: the node as a whole."""


def _rows(table: Timetable) -> dict[_Row, int]:
    """Each row's place. Of very many nodes those that were held longest."""
    if sum(table.nodes.values()) <= MOST_ROWS:
        rows: list[_Row] = [(node, slot) for node in sorted(table.nodes) for slot in range(table.nodes[node])]
    else:
        held = dict.fromkeys(table.nodes, 0.0)
        for _, span in spans_of(table.jobs.values()):
            held[span.node] = held.get(span.node, 0.0) + len(span.slots) * span.seconds(table.end_ns)
        most = sorted((node for node in table.nodes if held[node]), key=lambda node: (-held[node], node))
        rows = [(node, None) for node in sorted(most[:MOST_ROWS])]
    return {row: place for place, row in enumerate(rows)}


def _remark(table: Timetable, rows: Iterable[_Row]) -> str:
    """What the picture does not show."""
    if not table.nodes:
        return " (on which nodes is not recorded)"
    left_out = len(table.nodes) - len({node for node, _ in rows})
    return f" ({left_out:,} nodes that were held less, or never, are not drawn)" if left_out else ""


def _labels(rows: dict[_Row, int], top: int) -> Iterator[str]:
    before = None
    for (node, _), place in rows.items():
        if node != before:
            y = top + place * ROW
            yield f'<line stroke="#ddd" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
            yield _text(LEFT - 6, y + 9, node if len(node) <= 18 else f"{node[:17]}…", "end", 9)
        before = node


def _bars(table: Timetable, rows: dict[_Row, int], top: int, axis: _Axis) -> Iterator[str]:
    """A bar for each attempt in the row of each of its slots, with what it was as its title."""
    for job, span in spans_of(table.jobs.values()):
        x = axis.x(span.begin_ns)
        width = max(0.5, axis.x(_end(span, table)) - x)
        title = escape(_title(job, span, table))
        colour = _COLOURS[zlib.crc32(job.run_id.encode()) % len(_COLOURS)]
        opacity = ' fill-opacity="0.5"' if span.end_ns is None else ""
        places = [(span.node, slot) for slot in span.slots]
        for first, count in _runs(sorted(rows[row] for row in places if row in rows)):
            y = top + first * ROW + 1
            yield (
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{count * ROW - 2}" fill="{colour}"{opacity}>'
                f"<title>{title}</title></rect>"
            )


def _runs(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring rows together: the first and how many."""
    first = count = 0
    for place in places:
        if count and place == first + count:
            count += 1
        else:
            if count:
                yield first, count
            first, count = place, 1
    if count:
        yield first, count


def _shades(table: Timetable, rows: dict[_Row, int], top: int, axis: _Axis) -> Iterator[str]:
    """How much of each node was held, piece by piece of the time."""
    step = max(1, -(-(axis.end_ns - axis.begin_ns) // STEPS))
    held = [[0.0] * STEPS for _ in rows]
    for _, span in spans_of(table.jobs.values()):
        place = rows.get((span.node, None))
        if place is None or not span.slots:
            continue
        begin, end = span.begin_ns - axis.begin_ns, _end(span, table) - axis.begin_ns
        for piece in range(begin // step, min(STEPS - 1, end // step) + 1):
            part = min(end, (piece + 1) * step) - max(begin, piece * step)
            held[place][piece] += len(span.slots) * part / step
    width = (WIDTH - LEFT - RIGHT) / STEPS
    for (node, _), place in rows.items():
        shares = [
            round(min(1.0, max(0.08, amount / max(1, table.nodes[node]))), 2) if amount else 0.0
            for amount in held[place]
        ]
        for first, count in _alike(shares):
            yield (
                f'<rect x="{LEFT + first * width:.1f}" y="{top + place * ROW + 1}" width="{count * width:.1f}" '
                f'height="{ROW - 2}" fill="#4e79a7" fill-opacity="{shares[first]}"/>'
            )


def _alike(shares: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Neighbours that are alike and not nothing: the first and how many."""
    first = 0
    for place in range(1, len(shares) + 1):
        if place == len(shares) or shares[place] != shares[first]:
            if shares[first]:
                yield first, place - first
            first = place


def _queue(table: Timetable, top: int, axis: _Axis) -> Iterator[str]:
    """How many jobs waited for their first grant, as an area."""
    changes: list[tuple[int, int]] = []
    for job in table.jobs.values():
        changes.append((job.submit_ns, 1))
        if job.spans:
            changes.append((job.spans[0].begin_ns, -1))
    waiting = most = 0
    levels: list[tuple[int, int]] = []
    for at_ns, change in sorted(changes):
        waiting += change
        if levels and levels[-1][0] == at_ns:
            levels[-1] = (at_ns, waiting)
        else:
            levels.append((at_ns, waiting))
    most = max((level for _, level in levels), default=0)
    bottom = top + QUEUE - 6
    points = [f"{LEFT},{bottom}"]
    y = float(bottom)
    for at_ns, level in levels:
        x = axis.x(at_ns)
        points.append(f"{x:.1f},{y:.1f}")
        y = bottom - (QUEUE - 12) * level / max(1, most)
        points.append(f"{x:.1f},{y:.1f}")
    points += [f"{WIDTH - RIGHT},{y:.1f}", f"{WIDTH - RIGHT},{bottom}"]
    yield f'<polygon fill="#c9c9c9" points="{" ".join(points)}"/>'
    yield _text(LEFT - 6, bottom - 16, f"waiting, {most:,}", "end", 9)
    yield _text(LEFT - 6, bottom - 4, "at most", "end", 9)


def _ticks(y: int, axis: _Axis, top: int) -> Iterator[str]:
    """Six moments, by the time since the first submission."""
    for place in range(7):
        at_ns = axis.begin_ns + (axis.end_ns - axis.begin_ns) * place // 6
        x = axis.x(at_ns)
        yield f'<line stroke="#ddd" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{y}"/>'
        yield _text(x, y + 10, format_duration((at_ns - axis.begin_ns) / SECOND_NS), "middle")


def _end(span: Span, table: Timetable) -> int:
    return table.end_ns if span.end_ns is None else span.end_ns


def _title(job: Job, span: Span, table: Timetable) -> str:
    waited = format_duration((job.spans[0].begin_ns - job.submit_ns) / SECOND_NS)
    ran = format_duration(span.seconds(table.end_ns))
    attempt = "" if span.attempt == 1 else f" attempt {span.attempt}"
    return f"{job.name}{attempt}: waited {waited}, ran {ran} on {span.node}"


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11) -> str:
    """Attributes, no style sheet: not every viewer reads one."""
    return (
        f'<text x="{x:.1f}" y="{y}" font-family="sans-serif" font-size="{size}" text-anchor="{anchor}" fill="#333">'
        f"{escape(text)}</text>"
    )
