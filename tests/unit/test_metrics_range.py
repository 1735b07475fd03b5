"""Ranges of metrics.jsonl: of whole lines, and by offsets that a thinning leaves as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.agent.output.measured import MeasuredLine
from services.agent.output.metrics_range import read
from services.agent.processes import hand_in
from services.agent.shim import notify
from services.agent.shim.core_types import Fields

LINES = b"".join(b"line %04d\n" % number for number in range(100))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(LINES + b"torn")
    return path


def test_a_range_ends_with_a_line_and_what_is_torn_is_not_there_yet(path: Path) -> None:
    assert read(path, 0, 25).data == LINES[:20]
    assert read(path, 20, 10_000).data == LINES[20:]
    assert (read(path, 0, 1).size, read(path, 5000, 9)) == (1000, type(read(path, 0, 1))(b"", 1000, 1000))
    assert read(path, -30, 10_000).data == LINES[-30:]
    assert read(path, 0, 7).data == LINES[:7]  # less than a line: so much of it
    assert read(path.with_name("none"), 5, 100).size == 0


def test_the_newest_lines_are_read_where_there_is_too_much(path: Path) -> None:
    found = read(path, 100, 55, newest=True)
    assert (found.data, found.offset) == (LINES[-50:], 950)
    assert read(path, 950, 55, newest=True) == found


def test_a_thinned_file_is_numbered_from_its_end(path: Path) -> None:
    note = b'{"time":"x","step":null,"progress":null,"metrics":{},"thinned":{"lines":60,"cut":500}}\n'
    path.write_bytes(note + LINES[:200])
    size = 500 + len(note) + 200
    whole = read(path, 0, 10_000)
    assert (whole.data, whole.offset, whole.size) == (note + LINES[:200], 500, size)
    assert read(path, size - 20, 100).data == LINES[180:200]
    assert read(path, size, 100).data == b""


def test_what_the_agent_hands_in_is_what_the_shim_reads() -> None:
    lines = [MeasuredLine(at, at or None, {"a": at / 3, "b": float("inf")}) for at in range(3000)]
    lines.append(MeasuredLine(5000, None, {f"{number:03}" + "\U0001f600" * 97: 1.0 for number in range(900)}))
    parts = list(hand_in.messages(lines))
    assert sum(count for _, count in parts) == len(lines) and len(parts) > 3
    assert all(len(data) <= hand_in.DATAGRAM_BYTES + 100 for data, _ in parts)
    read_back = [each for data, _ in parts for each in notify.handed_in(data)]
    assert [at for at, _ in read_back] == [line.offset for line in lines]
    assert read_back[3][1] == Fields(step=3, metrics=(("a", 1.0), ("b", float("inf"))))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"nonsense",
        b"[1]",
        b'{"offset":"1","step":1,"metrics":{}}',
        b'{"offset":1,"step":"x","metrics":{}}',
        b"[" * 9000,
    ],
)
def test_what_no_agent_wrote_is_passed_over(text: bytes) -> None:
    assert notify.handed_in(notify.HANDED_IN + text) == []
