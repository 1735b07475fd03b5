"""docs/qt.md: its window, shown on a real stack."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from tests.support.stack import Stack
from trainshed_client.qt import TableRole

PAGE = Path(__file__).resolve().parents[3] / "docs/qt.md"


def test_the_window_of_the_page_shows_the_runs(
    qtbot: QtBot, new_stack: Callable[..., Stack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "runs.py"
    program.write_text(PAGE.read_text().split("```python\n", 1)[1].split("```", 1)[0])
    spec = importlib.util.spec_from_file_location("runs_of_the_page", program)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stack = new_stack()
    ended, failed = stack.submit(shell="exit 0"), stack.submit(shell="exit 3")
    stack.wait(ended, failed, code=None)
    monkeypatch.setenv("TRAINSHED_STATE_DIR", str(stack.state_dir))
    for name in ("TRAINSHED_NATS_URL", "NATS_URL"):
        monkeypatch.delenv(name, raising=False)
    window = module.RunsWindow()
    qtbot.addWidget(window)
    window.show()

    def shown() -> dict[str, str]:
        rows = [window.sorted.index(row, 0) for row in range(window.sorted.rowCount())]
        return {row.data(TableRole.KEY): str(row.data(TableRole.RECORD).status) for row in rows}

    qtbot.waitUntil(lambda: shown() == {ended: "COMPLETED", failed: "FAILED"}, timeout=15_000)
    assert window.statusBar().currentMessage() == "connected"
    later = stack.submit(shell="exit 0")
    qtbot.waitUntil(lambda: shown().get(later) == "COMPLETED", timeout=15_000)
    window.close()
    assert window.runner.state == "closed"
