"""Every command of docs/coming-from.md, run as it stands there on a real stack, and what it says is different."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.stack import TRAINSHED, Stack, until

PAGE = Path(__file__).parents[3] / "docs" / "coming-from.md"
ELSEWHERE = (
    "trainshed service install",
    "trainshed up --detach",
    "trainshed up --slots-per-gpu 2",
    "trainshed submit",
)
"""Named on the page, and tried by tests of their own."""


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
    (folder / "job.sh").write_text("#!/bin/sh\n#SBATCH --gres=gpu:1\necho job $SLURM_ARRAY_TASK_ID\n")
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
    done = stack.trainshed(
        *({"RUN": run[:10], "NODE": "box"}.get(word, word) for word in words),
        cwd=folder,
        environment={"LR": "3e-4"},
    )
    match words[0]:
        case "submit" if "--json" in words:
            assert len(done.json["run_id"]) == 26
        case "submit" if "--dry-run" not in words:
            assert all(len(line.split()[0]) == 26 for line in done.lines)
        case "logs":
            assert done.lines == ([] if "--stderr" in words else ["hello"])
        case "artifacts":
            assert "left nothing in artifacts/" in done.stderr
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


def test_the_loop_makes_a_run_of_each_task(stack: Stack, folder: Path) -> None:
    (loop,) = re.findall(r"(?ms)^```sh\n(.*?)^```", PAGE.read_text())
    path = f"{TRAINSHED.parent}:{stack.environment['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-ec", loop],
        env={**stack.environment, "PATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    runs = [line.split()[0] for line in done.stdout.splitlines()]
    stack.wait(*runs)
    assert [stack.stdout(run) for run in runs] == ["job 1\n", "job 2\n", "job 3\n"]


def test_what_looks_alike_is_not(stack: Stack, tmp_path: Path) -> None:
    """The claims of the page that no other test holds: time, variables, the terminal, an edit while it waits."""
    for refused in ("5:00", "1-12"):
        assert (
            "write seconds" in stack.trainshed("submit", "--time-limit", refused, "--", "true", code=2).stderr
        )
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\n#SBATCH --gres=gpu:1\necho first\n")
    script.chmod(0o755)
    os.mkfifo(tmp_path / "gate")
    gate = stack.submit("--", "cat", str(tmp_path / "gate"))
    words = ("submit", "--json", "--time-limit", "5", "--after", gate, "--", "./job.sh")
    shell = {"SECRET_OF_THE_SHELL": "x", "SSH_AUTH_SOCK": "/x", "CUDA_VISIBLE_DEVICES": "1"}
    waits = stack.trainshed(*words, cwd=tmp_path, environment=shell).json
    script.write_text(
        "#!/bin/sh\n"
        'echo "edited $SECRET_OF_THE_SHELL$SSH_AUTH_SOCK$CUDA_VISIBLE_DEVICES"\n'
        "test -t 1 || echo no terminal\n"
        "read line || echo nothing to read\n"
    )
    again = stack.trainshed(*words, cwd=tmp_path).json
    assert (waits["created"], again["created"]) == (True, True), "an edited script is another run"
    stack.running(gate)
    with (tmp_path / "gate").open("w"):
        pass
    stack.wait(waits["run_id"], again["run_id"])
    assert stack.stdout(waits["run_id"]) == "edited \nno terminal\nnothing to read\n"
    assert "code changed" in stack.trainshed("show", waits["run_id"]).text
    assert "code changed" not in stack.trainshed("show", again["run_id"]).text
    config = stack.show(waits["run_id"])["config"]
    assert (config["schedule"], config.get("resources")) == ({"max_duration_seconds": 5}, None)


def test_what_was_submitted_there_has_run(stack: Stack, folder: Path) -> None:
    runs = [run["run_id"] for run in stack.trainshed("ls", "--all", json=True)["runs"]]
    stack.trainshed("wait", "-q", "--timeout", "60s", *runs, code=None, within=70)
    ended = stack.trainshed("ls", "--all", json=True)["runs"]
    assert {run["status"] for run in ended} == {"COMPLETED", "CANCELLED"}, [
        (run["command"], run["status"]) for run in ended if run["status"] == "FAILED"
    ]
