"""The shim's writer of metrics.jsonl: once a second, in order, and what becomes of lines that cannot be written."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from services.agent.shim import metrics_file, metrics_writer
from services.agent.shim.metrics_writer import WRITE_EVERY_S, MetricsWriter


def steps(path: Path) -> list[int | None]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture
def written() -> threading.Semaphore:
    return threading.Semaphore(0)


def test_what_waits_is_written_at_once_and_then_once_a_second(
    tmp_path: Path, written: threading.Semaphore
) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(str(path), written.release)
    assert writer.due == math.inf
    writer.put(1, None, (), None)
    assert writer.due <= 100.0
    writer.write(100.0)
    assert written.acquire(timeout=10) and steps(path) == [1]
    writer.put(2, None, (), None)
    writer.put(3, None, (), None)
    assert writer.due == 100.0 + WRITE_EVERY_S
    writer.finish()
    assert steps(path) == [1, 2, 3] and writer.due == math.inf


def test_lines_that_could_not_be_written_come_before_those_that_came_since(tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    writer = MetricsWriter(str(folder / "metrics.jsonl"), lambda: None)
    for step in range(3):
        writer.put(step, None, (), None)
        writer.finish()
        assert writer.due < math.inf
    folder.mkdir()
    writer.put(3, None, (), None)
    writer.finish()
    assert steps(folder / "metrics.jsonl") == [0, 1, 2, 3] and writer.due == math.inf
    shutil.rmtree(folder)
    writer.put(4, None, (), None)
    writer.write(5.0)
    writer.finish()
    assert writer.due == 5.0 + WRITE_EVERY_S


def test_a_flood_is_written_before_its_second_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_writer, "WRITE_BYTES", 500)
    writer = MetricsWriter(str(tmp_path / "metrics.jsonl"), lambda: None)
    writer.put(0, None, (), None)
    writer.write(100.0)
    writer.finish()
    for step in range(1, 9):
        writer.put(step, None, (), None)
    assert writer.due < 100.0
    writer.write(100.1)
    writer.finish()
    assert steps(tmp_path / "metrics.jsonl") == list(range(9))


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Writes hang until it is called."""
    go_on, append = threading.Event(), metrics_file.append

    def hang(path: str, data: bytes, left_out: int = 0) -> None:
        go_on.wait(10)
        append(path, data, left_out)

    monkeypatch.setattr(metrics_file, "append", hang)
    return go_on.set


def test_while_storage_hangs_no_more_waits_than_there_is_room_for_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: Callable[[], None]
) -> None:
    monkeypatch.setattr(metrics_writer, "PENDING_BYTES", 5000)
    monkeypatch.setattr(metrics_writer, "LAST_WITHIN_S", 0.05)
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(str(path), lambda: None)
    writer.put(0, None, (("loss", 0.0),), None)
    writer.write(100.0)
    for step in range(1, 1000):
        writer.put(step, None, (("loss", float(step)),), None)
        writer.write(100.0 + step)
    writer.finish()
    assert not path.exists()
    hangs()
    monkeypatch.setattr(metrics_writer, "LAST_WITHIN_S", 10.0)
    writer.finish()
    first, *lines = map(json.loads, path.read_text().splitlines())
    assert first["thinned"]["lines"] == 1000 - len(lines) > 900
    assert (lines[0]["step"], lines[1]["step"], lines[-1]["step"]) == (0, 1, 999)
