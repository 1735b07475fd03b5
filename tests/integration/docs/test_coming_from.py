"""Every command in the tables of docs/coming-from.md, run as it stands there on a real stack."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.support.stack import Stack, until

PAGE = Path(__file__).parents[3] / "docs" / "coming-from.md"
ELSEWHERE = ("trainshed service install",)
"""Named on the page, and tried by a test of its own."""


def commands() -> list[str]:
    """Every whole command of ours in the right-hand columns, once."""
    found: dict[str, None] = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("|"):
            cell = re.split(r"(?<!\\)\|", line)[2]
            found |= dict.fromkeys(
                code for code in re.findall(r"`([^`]+)`", cell) if code.startswith("trainshed ")
            )
    return list(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, with the files that the page names."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "train.py").write_text("import os\nprint('trained', os.environ.get('LR', ''))\n")
    (folder / "job.sh").write_text("#!/bin/sh\necho job\n")
    (folder / "job.sh").chmod(0o755)
    (folder / "run.yaml").write_text("entry_point: ./job.sh\nworking_dir: " + str(folder) + "\n")
    configs = [{"entry_point": "/bin/true", "arguments": [str(n)]} for n in range(3)]
    (folder / "sweep.jsonl").write_text("\n".join(map(json.dumps, configs)))
    return folder


@pytest.fixture(scope="module")
def ended(stack: Stack) -> str:
    """A run that has completed, with output."""
    run = stack.submit("--name", "told-of", shell="echo hello")
    stack.wait(run)
    return run


def test_the_page_names_the_commands_that_people_know() -> None:
    text = PAGE.read_text()
    for known in ("nohup", "ts ", "sbatch", "squeue", "scancel", "sacct", "srun", "sinfo"):
        assert f"`{known}" in text or f" {known}" in text
    assert len(commands()) > 35


@pytest.mark.parametrize("command", [one for one in commands() if one not in ELSEWHERE])
def test_the_command_does_what_the_page_says(stack: Stack, folder: Path, ended: str, command: str) -> None:
    words = shlex.split(command)[1:]
    run = ended
    if words[0] == "cancel":
        run = stack.submit("--", "sleep", "60")
        stack.running(run)
    done = stack.trainshed(*({"RUN": run[:10], "NODE": "box"}.get(word, word) for word in words), cwd=folder)
    match words[0]:
        case "submit" if "--dry-run" not in words:
            assert all(len(line.split()[0]) == 26 for line in done.lines)
        case "logs":
            assert done.lines == ["hello"]
        case "run":
            assert done.text in ("trained \n", "job\n")
        case "cancel":
            stack.wait(run, code=125)
        case "retry":
            until(lambda: (record := stack.record(run))["attempt"] == 2 and record["ended_at"])
        case "events":
            assert json.loads(done.lines[0])["type"] == "trainshed.run.submitted.v1"
        case "ls" if "--status" in words:
            assert done.stdout or done.stderr == "no run matches\n"
        case _:
            assert done.stdout


def test_what_was_submitted_there_has_run(stack: Stack, folder: Path) -> None:
    runs = [run["run_id"] for run in stack.trainshed("ls", "--all", json=True)["runs"]]
    stack.trainshed("wait", "-q", "--timeout", "60s", *runs, code=None, within=70)
    ended = stack.trainshed("ls", "--all", json=True)["runs"]
    assert {run["status"] for run in ended} == {"COMPLETED", "CANCELLED"}, [
        (run["command"], run["status"]) for run in ended if run["status"] == "FAILED"
    ]
