"""A run's certificate from a real stack, checked where there is none, and the checkpoint that it stands below."""

from __future__ import annotations

import json
import re
from pathlib import Path

from projections.transparency.checkpoint import SignedHead
from projections.transparency.note import VerifierKey, verified
from tests.support.stack import Stack, clean_environment, run_trainshed
from tests.support.tree import proof_in


def test_a_run_is_proved_and_its_certificate_checked_without_a_stack(stack: Stack, tmp_path: Path) -> None:
    run = stack.submit("--name", "to-be-proved", shell="true")
    stack.wait(run)
    told = stack.trainshed("audit", "prove", "to-be-proved", "--tlog-proof", "proofs", cwd=tmp_path)
    assert told.text == f"{run}.certificate.json\n"
    certificate = json.loads((tmp_path / f"{run}.certificate.json").read_bytes())
    events = stack.events(run)
    assert [int(event["sequence"]) for event in events] == [each["seq"] for each in certificate["events"]]
    for each in certificate["events"]:
        proof = proof_in((tmp_path / "proofs" / f"{each['seq']}.tlog-proof").read_text())
        assert proof[0] == each["index"]
    nowhere = clean_environment(tmp_path / "no-stack")
    checked = run_trainshed("audit", "check", told.text.strip(), environment=nowhere, cwd=tmp_path)
    assert f"run {run}: {len(events)} events" in checked.text
    assert "does not prove" in checked.text

    checkpoint = SignedHead.parse(stack.trainshed("audit", "checkpoint").stdout)
    asked = stack.trainshed("audit", "checkpoint", json=True)
    key = VerifierKey.parse(certificate["vkey"])
    assert verified(checkpoint.note, [key]) == (key,)
    assert asked["vkey"] == certificate["vkey"]
    assert asked["size"] >= checkpoint.head.size >= len(events)
    assert (stack.state_dir / "audit/signer.key").stat().st_mode & 0o777 == 0o600

    kept = tmp_path / "kept.txt"
    kept.write_bytes(stack.trainshed("audit", "checkpoint").stdout)
    assert "the same" in stack.trainshed("audit", "verify", "--against", str(kept)).text
    lines = kept.read_text().split("\n")
    kept.write_text("\n".join([lines[0], lines[1], "A" * 43 + "=", *lines[3:]]))
    refused = stack.trainshed("audit", "verify", "--against", str(kept), code=1)
    assert re.search(rf"I8 at \d+: the checkpoint of {lines[1]} leaves no longer fits", refused.text)
    kept.write_text("\n".join(["trainshed/other", *lines[1:]]))
    assert "--against" in stack.trainshed("audit", "verify", "--against", str(kept), code=2).stderr
    assert "--tiles" in stack.trainshed("audit", "verify", "--tiles", str(tmp_path), code=2).stderr
