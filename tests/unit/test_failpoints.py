"""Failpoints: off they do nothing, armed they strike once and where they are told; page, list and code name the same."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services import failpoints
from tests.faults.points import POINTS

ROOT = Path(__file__).resolve().parents[2]
THREE_TIMES = """
from services.failpoints import failpoint
for number in range(3):
    failpoint("a.point")
    print(number, flush=True)
"""


def ended(armed: str | None, once_in: Path | None = None) -> tuple[int, list[str]]:
    """How a process that passes the point three times ends, and how far it came."""
    environment = {failpoints.ARMED: armed} if armed is not None else {}
    if once_in is not None:
        environment[failpoints.ONCE_IN] = str(once_in)
    done = subprocess.run(
        [sys.executable, "-P", "-c", THREE_TIMES],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("armed", "passed"),
    [
        (None, 3),
        ("", 3),
        ("another.point=kill", 3),
        ("a.point=kill", 0),
        ("another.point=kill, a.point=kill@3", 2),
        ("a.point=kill@4", 3),
    ],
)
def test_an_armed_point_strikes_at_its_hit(armed: str | None, passed: int) -> None:
    code, lines = ended(armed)
    assert code == (0 if passed == 3 else -signal.SIGKILL)
    assert len(lines) == passed


def test_of_several_processes_only_the_first_is_struck(tmp_path: Path) -> None:
    assert ended("a.point=kill@2", tmp_path)[0] == -signal.SIGKILL
    assert (tmp_path / "a.point").exists()
    assert ended("a.point=kill@2", tmp_path) == (0, ["0", "1", "2"])


@pytest.mark.parametrize(
    "text",
    ["a", "a=", "a=explode", "=kill", "a=kill@", "a=kill@x", "a=kill@-1", "a=slow", "a=slow@", "a=slow@x"],
)
def test_what_cannot_be_armed_is_refused_with_what_can(text: str) -> None:
    with pytest.raises(ValueError, match="accepted: NAME=kill"):
        failpoints.parse(text)


def test_a_point_may_be_slow_and_is_not_struck_then() -> None:
    assert failpoints.parse("a.point=slow@250") == {"a.point": (None, 250)}
    code = "from services.failpoints import delay; print(delay('a.point'), delay('another'))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{THREE_TIMES}\n{code}"],
        env={failpoints.ARMED: "a.point=slow@250"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0", "1", "2", "0.25", "0.0"]


def test_code_list_and_page_name_the_same_points() -> None:
    in_code: list[str] = []
    for file in (ROOT / "services").rglob("*.py"):
        in_code += re.findall(r'\bfailpoint\("([^"]+)"\)', file.read_text())
    assert sorted(in_code) == sorted(POINTS)
    page = (ROOT / "docs/faults.md").read_text()
    assert sorted(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", page, re.MULTILINE)) == sorted(POINTS)


def test_failpoints_import_the_standard_library_alone() -> None:
    names = re.findall(r"^(?:from|import) (\w+)", (ROOT / "services/failpoints.py").read_text(), re.MULTILINE)
    assert set(names) <= sys.stdlib_module_names | {"__future__"}
