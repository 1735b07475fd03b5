"""README.md and docs/run-config.md: what they show to be typed, typed in their order on a real stack.

Owns that the main examples do what the pages say; that all others are taken, tests/unit/test_docs_as_typed.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import TRAINSHED, Stack

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text()
RUN_CONFIG = (ROOT / "docs/run-config.md").read_text()
PYTHON = Path("/usr/bin/python3")
TRAIN = """
import json, os, sys
print(" ".join(sys.argv[1:]))
print(json.dumps({"type": "step", "step": 1, "reward": 0.5}))
os.makedirs(os.environ["TRAINSHED_RUN_DIR"] + "/artifacts", exist_ok=True)
open(os.environ["TRAINSHED_RUN_DIR"] + "/artifacts/model.pt", "w").write("weights")
"""


def block(page: str, begins: str) -> str:
    """The one block of a page in which a line begins so."""
    blocks: list[str] = re.findall(r"(?ms)^```\w*\n(.*?)^```", page)
    (found,) = [block for block in blocks if any(line.startswith(begins) for line in block.splitlines())]
    return found


class Shell:
    """A user's shell in a project's folder, whose `python` is the machine's."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "bin/trainshed").symlink_to(TRAINSHED)
        (folder / "bin/python").symlink_to(PYTHON)
        (folder / "train.py").write_text(TRAIN)

    def type(self, line: str, **variables: str) -> str:
        """What a line prints."""
        done = subprocess.run(
            ["/bin/sh", "-ec", line],
            env={**self.stack.environment, "PATH": f"{self.folder}/bin:/usr/bin:/bin", **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    if not PYTHON.exists():
        pytest.skip(f"the pages' examples run {PYTHON}")
    stack = Stack(
        tmp_path_factory.mktemp("stack") / "state",
        memory=16_000,
        environment={"WANDB_API_KEY": "x", "TRAINSHED_WORKER_ENV": "", "NO_COLOR": "1"},
    )
    try:
        stack.start()
        yield Shell(stack, tmp_path_factory.mktemp("project"))
    finally:
        stack.close()


def test_the_first_commands_of_the_readme(shell: Shell) -> None:
    submit, run, *others = block(README, "trainshed submit --gpus 1").splitlines()
    first = shell.type(submit).split()[0]
    shell.stack.wait(first)
    assert shell.stack.stdout(first).splitlines()[0] == "--lr 1e-3"
    assert '"reward": 0.5' in shell.type(run)
    printed = {}
    for line in others:
        words = line.split("#")[0].replace("RUN", first[:8]).replace("-2h", "-0s")  # the log is young
        run_of_its_own = shell.stack.submit("--", "sleep", "60") if " cancel " in line else ""
        words = words.replace(first[:8], run_of_its_own) if run_of_its_own else words
        printed[words.strip()] = shell.type(words)
        if run_of_its_own:
            shell.stack.wait(run_of_its_own, code=125)
    assert (shell.folder / "model.pt").read_text() == "weights"
    for command, expected in (
        ("trainshed ls", first),
        (f"trainshed logs -f {first[:8]}", "--lr 1e-3"),
        (f"trainshed metrics {first[:8]}", "reward"),
        ("trainshed slots", "box"),
        (f"trainshed explain {first[:8]}", "COMPLETED"),
        ("trainshed submit --dry-run --gpus 1 -- python train.py", "could run on:  box"),
    ):
        assert expected in printed[command]


def test_the_run_config_of_the_readme(shell: Shell) -> None:
    (shell.folder / "run.yaml").write_text(block(README, "entry_point:"))
    run = shell.type("trainshed submit -f run.yaml").split()[0]
    shell.stack.wait(run)
    (line, *_) = shell.stack.stdout(run).splitlines()
    assert line == f"--seed 1 --out {shell.stack.run_dir(run)}/checkpoints"


def test_the_run_config_page_in_its_order(shell: Shell) -> None:
    """The same file from another folder is the same run; and what goes over it has gone over it."""
    (shell.folder / "run.yaml").write_text(block(RUN_CONFIG, "entry_point:"))
    plain, dry, labelled, fields, command, followed = block(RUN_CONFIG, "trainshed submit -f").splitlines()
    first = shell.type(plain).split()[0]
    assert "no, there is one" in shell.type(dry)
    assert shell.type(f"cd / && trainshed submit -f {shell.folder}/run.yaml").split()[0] == first
    runs = [shell.type(line).split()[0] for line in (labelled, fields, command)]
    shell.stack.wait(first, *runs)
    assert shell.type(followed).startswith("--seed 1 --lr 1e-4")
    configs = [shell.stack.show(run)["config"] for run in runs]
    assert (configs[0]["priority"], configs[0]["labels"]) == (5, {"try": "2"})
    assert configs[1]["resources"]["gpus"] == {"requested": 2}
    assert configs[1]["arguments"][:3] == ["train.py", "--seed", "7"]
    assert configs[2]["schedule"] == {"max_steps": 100000}
    assert {config["working_dir"] for config in configs} == {str(shell.folder)}


def test_the_program_of_the_readme(shell: Shell) -> None:
    program = block(README, "from trainshed_client import Trainshed").replace(
        "/home/me/project", str(shell.folder)
    )
    imports, _, rest = program.partition("\n")
    script = f"{imports}\nimport asyncio\nasync def main():\n{textwrap.indent(rest, '    ')}\nasyncio.run(main())\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **shell.stack.environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run, created = done.stdout.split()
    assert created == "True"
    assert shell.stack.wait(run)[0]["status"] == "COMPLETED"


def test_what_the_readme_reports_from_a_training_is_in_the_record(shell: Shell) -> None:
    (shell.folder / "reports.py").write_text(block(README, "from trainshed_client import notify"))
    run = shell.stack.submit("--", sys.executable, str(shell.folder / "reports.py"))
    (record,) = shell.stack.wait(run)
    assert record["ready_at"] is not None
    assert (record["step"], record["progress"]) == (1200, 0.24)
    assert record["metrics"] == {"reward": 195.2, "eval/loss": 0.5}
