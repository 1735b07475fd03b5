"""The tests of models, form and runner once more on a screen: that of Xvfb, by Qt's own platform for X11."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
WITHIN_S = 240.0


@pytest.mark.timeout(WITHIN_S + 30)
def test_all_of_it_works_on_a_screen_too(tmp_path: Path) -> None:
    program = shutil.which("xvfb-run")
    if program is None:
        assert not os.environ.get("QT_REQUIRED"), "xvfb-run is missing"
        pytest.skip("xvfb-run is not installed (package xvfb)")
    environment = {**os.environ, "QT_QPA_PLATFORM": "xcb"}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    log = tmp_path / "log"
    with log.open("wb") as out:
        on_a_screen = subprocess.Popen(
            [
                *(program, "-a", "-s", "-screen 0 1600x1000x24", sys.executable, "-m", "pytest", "-q"),
                *("-p", "no:cacheprovider", "-p", "no:xdist", "--basetemp", str(tmp_path / "tests")),
                *("tests/unit/qt", "tests/integration/qt/test_runner.py"),
                "tests/integration/qt/test_runner_faults.py",
            ],
            cwd=CHECKOUT,
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            code = on_a_screen.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(on_a_screen.pid, signal.SIGKILL)
            code = on_a_screen.wait()
    text = log.read_text(errors="replace")
    assert code == 0, text[-4_000:]
    assert " passed" in text and "skipped" not in text
