"""A real node witnesses the log: its cosignatures in checkpoints and certificates, for Go as well, and whose count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from projections.transparency.checkpoint import SignedHead
from projections.transparency.note import VerifierKey, verified
from tests.support.golang import built, flipped_line, ran
from tests.support.stack import Stack, clean_environment, run_trainshed, until


def cosigned(stack: Stack) -> dict[str, Any]:
    """The checkpoint of the whole log, once the node has cosigned that."""

    def look() -> dict[str, Any] | None:
        answer: dict[str, Any] = stack.trainshed("audit", "checkpoint", "--cosigned", json=True)
        whole = stack.trainshed("audit", "checkpoint", json=True)
        return answer if answer["cosigned_by"] and answer["size"] == whole["size"] else None

    found: dict[str, Any] | None = until(look, 30.0, what="a cosignature of the whole log")
    assert found is not None
    return found


def witness(stack: Stack) -> dict[str, Any]:
    """The node's record."""
    (node,) = stack.trainshed("nodes", json=True)["nodes"]
    return dict(node)


@pytest.fixture(scope="module")
def certificate(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's certificate below a checkpoint that the node has cosigned."""
    folder = tmp_path_factory.mktemp("certificate")
    run = stack.submit("--name", "witnessed", shell="true")
    stack.wait(run)
    cosigned(stack)
    told = stack.trainshed("audit", "prove", "witnessed", cwd=folder)
    assert "cosigned" not in told.stderr
    return folder / str(told.text).strip()


def policy(folder: Path, stack: Stack, *lines: str) -> str:
    """A policy file with the stack's own keys."""
    node = witness(stack)
    vkey = stack.trainshed("audit", "checkpoint", json=True)["vkey"]
    file = folder / "witnesses.policy"
    file.write_text("\n".join([f"log {vkey}", f"witness ours {node['witness']}", *lines]) + "\n")
    return str(file)


def test_what_a_node_cosigned_is_shown_and_stands_below_checkpoints(stack: Stack) -> None:
    answer = cosigned(stack)
    node = witness(stack)
    assert (node["witnessed_size"], node["witnessed_root"]) == (answer["size"], answer["root"])
    assert answer["cosigned_by"] == [node["node"]]
    told = stack.trainshed("audit", "checkpoint", "--cosigned")
    keys = [VerifierKey.parse(answer["vkey"]), VerifierKey.parse(node["witness"])]
    signed = SignedHead.parse(told.stdout)
    assert signed.head.size == answer["size"]
    assert verified(signed.note, keys) == tuple(keys)
    assert f"cosigned by {node['node']}" in told.stderr
    shown = stack.trainshed("nodes").text
    assert "WITNESS" in shown and f"ok {answer['size']:,}" in shown


def test_go_verifies_a_real_nodes_cosignature_below_a_real_certificate(
    stack: Stack, certificate: Path, tmp_path: Path
) -> None:
    program = built(tmp_path)
    told = json.loads(certificate.read_bytes())
    given = {
        "vkey": told["vkey"],
        "cosigner": witness(stack)["witness"],
        "old": told["checkpoint"],
        "checkpoint": told["checkpoint"],
        "consistency": [],
        "events": told["events"],
    }
    done = ran(program, given)
    assert (done.returncode, done.stderr) == (0, "")
    lines = told["checkpoint"].split("\n")
    assert len(lines) == 7 and f"/{witness(stack)['node']} " in lines[5]
    done = ran(program, {**given, "checkpoint": flipped_line(told["checkpoint"], 5)})
    assert done.returncode == 2 and done.stderr.startswith("panic: ")


def test_a_policy_says_whose_cosignatures_of_a_certificate_count(
    stack: Stack, certificate: Path, tmp_path: Path
) -> None:
    nowhere = clean_environment(tmp_path / "no-stack")

    def checked(*words: str, code: int = 0) -> Any:
        return run_trainshed("audit", "check", str(certificate), *words, environment=nowhere, code=code)

    name = witness(stack)["witness"].partition("+")[0]
    assert f"that these cosigned it, whose keys nobody here knows: {name}" in checked().text
    file = policy(tmp_path, stack, "quorum ours")
    assert f"valid by {file}, cosigned by ours" in checked("--policy", file).text
    other = VerifierKey.parse(witness(stack)["witness"])
    stranger = VerifierKey(f"{other.name}x", other.kind, bytes(32))
    file = policy(tmp_path, stack, f"witness theirs {stranger}", "group both all ours theirs", "quorum both")
    assert "lacks a cosignature of theirs" in checked("--policy", file, code=1).text


def test_audit_verify_says_whose_keys_those_are_and_what_a_policy_lacks(stack: Stack, tmp_path: Path) -> None:
    cosigned(stack)
    verdict = stack.trainshed("audit", "verify", json=True)
    assert (verdict["ok"], verdict["policy"]) == (True, None)
    assert "keys" in verdict["not_checked"] and "checkpoints" not in verdict["not_checked"]
    node = witness(stack)
    assert verdict["cosigned"] == [{"node": node["node"], "size": node["witnessed_size"]}]
    assert f"cosigned by {node['node']}: the first " in stack.trainshed("audit", "verify").text
    file = policy(tmp_path, stack, "quorum ours")
    verdict = stack.trainshed("audit", "verify", "--policy", file, json=True)
    assert verdict["ok"] and "keys" not in verdict["not_checked"]
    assert (verdict["policy"]["met"], verdict["policy"]["cosigned_by"]) == (True, ["ours"])
    assert f"valid by {file}: the first" in stack.trainshed("audit", "verify", "--policy", file).text
    Path(file).write_text("".join(Path(file).read_text().splitlines(keepends=True)[:1]) + "quorum none\n")
    verdict = stack.trainshed("audit", "verify", "--policy", file, json=True)  # which knows no node's key
    assert verdict["ok"] and verdict["policy"]["met"] and "keys" in verdict["not_checked"]
    other = VerifierKey.parse(witness(stack)["witness"])
    stranger = VerifierKey(f"{other.name}x", other.kind, bytes(32))
    file = policy(tmp_path, stack, f"witness theirs {stranger}", "quorum theirs")
    verdict = stack.trainshed("audit", "verify", "--policy", file, json=True, code=1)
    assert (verdict["ok"], verdict["violations"]) == (False, [])
    assert verdict["policy"]["lacks"] == "a cosignature of theirs"
    told = stack.trainshed("audit", "verify", "--policy", file, code=1)
    assert f"not valid by {file}: the checkpoint of " in told.text
    Path(file).write_text("quorum\n")
    refused = stack.trainshed("audit", "verify", "--policy", file, code=2).stderr
    assert "--policy" in refused and "line 1: expected: `quorum NAME`" in refused
