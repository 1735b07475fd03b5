"""metrics.jsonl: lines are added whole, after whatever a killed writer left."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.folders.paths import METRICS
from services.agent.shim import metrics_file
from services.agent.shim.metrics_file import LineTimes, append, line, lines_back, offset_of, time_of


def test_a_line_bears_what_a_message_bore() -> None:
    made = line(
        1_764_407_567_339_180, 3, None, (("loss", 0.5), ("acc@1", float("nan")), ("x", float("-inf")))
    )
    assert json.loads(made) == {
        "time": "2025-11-29T09:12:47.339180Z",
        "step": 3,
        "progress": None,
        "metrics": {"loss": 0.5, "acc@1": "NaN", "x": "-Infinity"},
    }
    assert made.endswith(b"}\n") and made.count(b"\n") == 1


def test_times_rise_whatever_the_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([5_000_000, 5_000_900, 1_000_000, 9_000_000])
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    times = LineTimes()
    assert [times.next() for _ in range(4)] == [5000, 5001, 5002, 9000]


@pytest.mark.parametrize("torn", [b"", b"{", b'{"time":"2025', b"x" * 200_000])
@pytest.mark.parametrize("before", [b"", b"one\n", b"one\ntwo\n"])
def test_what_a_killed_writer_tore_is_cut_off(tmp_path: Path, before: bytes, torn: bytes) -> None:
    path = tmp_path / METRICS
    path.write_bytes(before + torn)
    append(str(path), b"three\nfour\n")
    assert path.read_bytes() == before + b"three\nfour\n"


def test_of_lines_that_cannot_all_be_written_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / METRICS
    append(str(path), b"one\n")
    write, room = os.write, [5, 0]

    def short_of_room(fd: int, data: memoryview) -> int:
        if not (fits := room.pop(0)):
            raise OSError(errno.ENOSPC, "full")
        return write(fd, data[:fits])

    with monkeypatch.context() as full:
        full.setattr(os, "write", short_of_room)
        with pytest.raises(OSError, match="full"):
            append(str(path), b"two\nthree\n")
    assert path.read_bytes() == b"one\n"
    append(str(path), b"two\nthree\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_the_agent_and_the_shim_name_it_the_same() -> None:
    assert metrics_file.NAME == METRICS


@given(
    st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"x")), max_size=20),
    st.integers(1, 30),
)
def test_lines_are_read_back_the_last_first(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], block: int
) -> None:
    path = tmp_path_factory.mktemp("metrics") / METRICS
    assert list(lines_back(str(path))) == []
    path.write_bytes(b"".join(each + b"\n" for each in lines) + b"torn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics_file, "_BLOCK", block)
        assert list(lines_back(str(path))) == lines[::-1]


def test_a_line_of_stdout_has_its_offset_and_a_metric_of_that_name_is_none() -> None:
    assert offset_of(line(1, 1, None, (("a", 1.0),), 12345)[:-1]) == 12345
    assert offset_of(line(1, 1, None, (("a", 1.0), ("offset", 5.0)))[:-1]) is None
    assert offset_of(line(1, 1, None, (), 0)[:-1]) == 0
    assert offset_of(line(1, 1, None, (('x","offset":7}', 1.0),))[:-1]) is None
    assert time_of(line(1_764_407_567_339_180, 1, None, ())[:-1]) == "2025-11-29T09:12:47.339180Z"
    assert time_of(b'{"step": 1}') == ""
