"""The code is part of what is run: an edited program is another run, results and commits are not; and a node looks again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack, until

GIT = ("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main")


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        [*GIT, "-C", str(folder), *words], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text("print('one')\n")
    return folder


def run(stack: Stack, project: Path, *options: str) -> Any:
    return stack.trainshed("run", *options, "--", sys.executable, "train.py", cwd=project)


def submitted(stack: Stack, project: Path, *options: str) -> dict[str, Any]:
    words = ("submit", *options, "--", sys.executable, "train.py")
    answer: dict[str, Any] = stack.trainshed(*words, json=True, cwd=project)
    return answer


def test_an_edited_script_is_another_run_and_the_old_output_is_not_passed_for_new(
    stack: Stack, project: Path
) -> None:
    assert run(stack, project).lines == ["one"]
    again = run(stack, project)
    assert again.lines == ["one"]
    assert again.stderr.startswith("nothing started: this config is run ")
    last = (
        r"nothing was started: this was the output of run \w{6}, which ended (just now|\d+ s ago)\. "
        r"For a new run: trainshed run --new …"
    )
    assert re.fullmatch(last, again.stderr.splitlines()[-1])
    (project / "train.py").write_text("print('two')\n")
    edited = run(stack, project)
    assert edited.lines == ["two"]
    assert "nothing" not in edited.stderr


def test_a_dry_run_tells_the_code_that_the_submission_then_bears(stack: Stack, project: Path) -> None:
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "all")
    (project / "train.py").write_text("print('dry')\n")
    dry = stack.trainshed("submit", "--dry-run", "--", sys.executable, "train.py", cwd=project)
    (code,) = (line.removeprefix("code:").strip() for line in dry.lines if line.startswith("code:"))
    shown = stack.trainshed("show", submitted(stack, project)["run_id"], json=True)
    commit = git(project, "rev-parse", "HEAD")[:10]
    digest = shown["config"]["code"]["sha256"][:10]
    assert code == f"{digest} of commit {commit} (dirty), in {project.resolve()}"


def test_results_beside_the_script_and_a_commit_of_the_same_content_make_no_other_run(
    stack: Stack, project: Path
) -> None:
    (project / "train.py").write_text(
        "open('results.json', 'w').write('1')\nopen('log.csv', 'a').write('1')\n"
    )
    git(project, "init", "-q")
    first = submitted(stack, project)
    stack.wait(first["run_id"])
    assert (project / "results.json").exists()
    git(project, "add", ".")
    git(project, "commit", "-qm", "all")
    again = submitted(stack, project)
    assert (again["run_id"], again["created"]) == (first["run_id"], False)
    assert submitted(stack, project, "--no-code")["created"]


def test_a_run_tells_of_which_commit_it_was_and_what_its_node_found(stack: Stack, project: Path) -> None:
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "all")
    commit = git(project, "rev-parse", "HEAD").strip()
    run_id = submitted(stack, project)["run_id"]
    stack.wait(run_id)
    view = stack.show(run_id)
    assert view["run"]["code"] == view["attempts"][0]["code"] == "same"
    data = view["timeline"][0]["data"]
    assert (data["commit"], data["dirty"], data["folder"]) == (commit, False, str(project))
    page = stack.trainshed("show", run_id).text
    assert f"of commit {commit[:10]}, the same at the start" in page
    (project / "train.py").write_text("print('other')\n")
    dirty = submitted(stack, project)["run_id"]
    assert stack.show(dirty)["timeline"][0]["data"]["dirty"] is True


def test_code_that_changed_while_the_run_waited_is_told(stack: Stack, project: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    first = stack.submit(shell=f"until [ -e {go} ]; do sleep 0.02; done", cwd=project)
    run_id = submitted(stack, project, "--after", first)["run_id"]
    (project / "train.py").write_text("print('later')\n")
    go.touch()
    stack.wait(first, run_id)
    record = stack.record(run_id)
    assert record["code"] == "changed"
    assert "code changed" in stack.trainshed("ls").text
    page = stack.trainshed("show", run_id).text
    assert "changed before the start" in page and "code changed" in page
    stack.trainshed("retry", run_id)
    assert stack.record(run_id)["code"] in (None, "changed")
    stack.wait(run_id)


def test_the_end_bears_what_was_seen_at_the_start_also_after_the_agents_restart(
    stack: Stack, project: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    (project / "train.sh").write_text(f"until [ -e {go} ]; do sleep 0.02; done\n")
    run_id = stack.trainshed("submit", "--", "/bin/sh", "train.sh", json=True, cwd=project)["run_id"]
    stack.running(run_id)
    until((stack.state_dir / "attempts" / run_id / "1" / "code.json").exists, what="the look is written down")
    (project / "train.sh").write_text("# edited while it runs\n")
    stack.kill()
    stack.start()
    go.touch()
    stack.wait(run_id)
    assert stack.record(run_id)["code"] == "same"


def test_code_that_is_not_there_any_more_or_was_not_read_wholly_is_unknown(
    stack: Stack, project: Path
) -> None:
    (project / "train.py").unlink()
    (project / "other.py").write_text("")
    config = {"entry_point": "/bin/true", "code": {"sha256": "0" * 64}}
    nowhere = stack.submit_config(config)
    moved = stack.submit_config(config, "--code", str(project))
    stack.wait(nowhere, moved)
    assert [stack.record(one)["code"] for one in (nowhere, moved)] == ["unknown", "same"]


def test_so_many_runs_of_one_config_are_the_same_runs_again(stack: Stack, project: Path) -> None:
    words = ("submit", "--count", "3", "--json", "--", sys.executable, "train.py")
    first = stack.trainshed(*words, cwd=project)
    runs = [line.split('"')[3] for line in first.lines]
    assert len(set(runs)) == 3 and runs[0] == submitted(stack, project)["run_id"]
    again = stack.trainshed(*words, cwd=project)
    assert [line.split('"')[3] for line in again.lines] == runs
    assert again.stderr == "3 of 3 were runs already; nothing started for them\n"
    fresh = stack.trainshed("submit", "--new", *words[1:], cwd=project)
    assert not {line.split('"')[3] for line in fresh.lines} & set(runs)
    stack.wait(*runs)


def test_a_count_that_is_too_much_for_one_message_is_several(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    file.write_text(json.dumps({"entry_point": "/bin/true", "metadata": {"large": "x" * 200_000}}))
    runs = [line.split()[0] for line in stack.trainshed("submit", "-f", str(file), "--count", "7").lines]
    assert len(set(runs)) == 7
    again = stack.trainshed("submit", "-f", str(file), "--count", "7")
    assert again.stderr.endswith("7 of 7 were runs already; nothing started for them\n")
    stack.wait(*runs)
