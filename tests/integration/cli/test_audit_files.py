"""`trainshed audit verify --files` on a real stack: what lies on the nodes is what the log says, or it is named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.stack import Stack, until

LEAVES = "echo out; echo no >&2; cd $TRAINSHED_RUN_DIR/artifacts; echo 1 > a; echo 2 > b; echo 3 > c"


def hashed(stack: Stack, run: str) -> int:
    """The sequence of the run's ArtifactsHashed, once it is there."""

    def look() -> int:
        last = stack.events(run)[-1]
        return int(last["sequence"]) if last["type"] == "trainshed.run.artifacts_hashed.v1" else 0

    return until(look, what="its artifacts are hashed")


def verify(stack: Stack, code: int = 0) -> tuple[list[tuple[str, int, str]], dict[str, Any]]:
    """What it finds, and what it says of the files."""
    verdict = stack.trainshed("audit", "verify", "--files", json=True, code=code)
    assert verdict["ok"] is (code == 0)
    assert "files" not in verdict["not_checked"]
    violations = [(one["invariant"], one["seq"], one["message"]) for one in verdict["violations"]]
    return violations, verdict["files"]


def test_each_file_that_is_no_longer_what_the_log_says_is_named(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack()
    run = stack.submit("--name", "left-something", shell=LEAVES)
    other = stack.submit("--name", "failed", shell="echo out; echo no >&2; exit 3")
    stack.wait(run, other, code=3)
    at = hashed(stack, run)
    end = int(stack.events(run)[-2]["sequence"])
    other_end = int(stack.events(other)[-1]["sequence"])

    found, files = verify(stack)
    assert found == []
    counts = {"attempts": 2, "compared": 2, "artifacts": 3}
    assert {name: count for name, count in files.items() if count} == counts

    artifacts, output = stack.run_dir(run) / "artifacts", stack.run_dir(run) / "attempts/1"
    (artifacts / "a").write_text("7\n")  # as long as it was
    (artifacts / "b").write_text("2\n2\n")
    (artifacts / "c").unlink()
    (stack.run_dir(run) / "artifacts.json").write_text("{}")
    with (output / "stdout.log").open("a") as stdout:
        stdout.write("more\n")
    os.truncate(output / "stderr.log", 1)
    (stack.run_dir(other) / "attempts/1/stderr.log").unlink()

    found, files = verify(stack, code=1)
    assert {name: count for name, count in files.items() if count} == counts
    of = f"run {run} attempt 1 on {stack.node}"
    texts = {(seq, message) for _, seq, message in found}
    assert {one[0] for one in found} == {"I10"}
    assert len(found) == 7
    assert (end, f"{of}: stdout has 9 bytes, the log says 4") in texts
    assert (end, f"{of}: stderr has 1 bytes, the log says 3") in texts
    assert (end, f"{of}: artifacts/b has 4 bytes, the log says 2") in texts
    assert (end, f"{of}: artifacts/c is not there, the log says 2 bytes") in texts
    assert (
        other_end,
        f"run {other} attempt 1 on {stack.node}: stderr is not there, the log says 3 bytes",
    ) in texts
    altered = {message for seq, message in texts if seq == at}
    assert len(altered) == 2 and all("the SHA-256" in message for message in altered)
    assert any(f"{of}: artifacts/a has" in message for message in altered)
    assert any(f"{of}: artifacts.json has" in message for message in altered)

    shown = stack.trainshed("audit", "verify", "--files", code=1)
    assert f"  I10 at {end}: {of}: stdout has 9 bytes, the log says 4" in shown.lines
    assert "  files: 2 of 2 attempts compared, with 3 artifacts" in shown.lines
    assert "what lies on the nodes is not what the log says" in shown.stderr

    shutil.rmtree(stack.run_dir(run))  # by hand: it is no pruning
    found, _ = verify(stack, code=1)
    assert len(found) == 7
    assert sum("is not there" in message for _, _, message in found) == 7


def test_what_was_pruned_tried_again_or_is_away_is_told_and_is_no_finding(
    new_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    stack = new_stack()
    pruned = stack.submit("--name", "pruned", shell=LEAVES)
    stack.wait(pruned)
    hashed(stack, pruned)
    stack.trainshed("prune", "--older-than", "0s")
    again = stack.submit("--name", "again", shell=f"{LEAVES}; echo $TRAINSHED_ATTEMPT > a")
    stack.wait(again)
    hashed(stack, again)
    live = stack.submit("--name", "live", shell="echo begun; sleep 60")
    stack.running(live)
    with stack.far_node(tmp_path / "far"):
        far = stack.submit("--name", "far", "--gpus", "4", shell=LEAVES)
        stack.wait(far)
        hashed(stack, far)
        found, files = verify(stack)
        assert found == []
        assert {name: count for name, count in files.items() if count} == {
            "attempts": 3,
            "compared": 2,
            "pruned": 1,
            "artifacts": 6,
        }
    # Its node is away now: what lies there may be anything.
    (tmp_path / "far/runs" / far / "attempts/1/stdout.log").unlink()
    stack.trainshed("retry", again)
    stack.wait(again)
    hashed(stack, again)
    found, files = verify(stack)
    assert found == []
    (away,) = files.pop("away")
    assert (away["node"], away["attempts"]) == ("far", 1)
    assert {name: count for name, count in files.items() if count} == {
        "attempts": 4,
        "compared": 2,
        "pruned": 1,
        "artifacts": 3,
        "left_out": 3,
    }
    shown = stack.trainshed("audit", "verify", "--files").lines
    assert "  files: 2 of 4 attempts compared, with 3 artifacts" in shown
    assert any(line.startswith("  files not compared: 1 attempt on far: ") for line in shown)
    assert "  files not compared: 1 attempt: deleted by `trainshed prune`" in shown
    assert any(line.startswith("  artifacts not compared: 3: ") for line in shown)
    (stack.run_dir(again) / "attempts/1/stdout.log").unlink()  # an attempt's own, whatever came after it
    assert len(verify(stack, code=1)[0]) == 1
    stack.trainshed("cancel", live)
