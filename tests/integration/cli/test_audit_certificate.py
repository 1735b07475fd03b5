"""A run's certificate from a real stack, checked where there is none, and the checkpoint that it stands below."""

from __future__ import annotations

import json
from pathlib import Path

from projections.transparency.checkpoint import SignedHead, parse_proof
from projections.transparency.note import VerifierKey, verified
from tests.support.stack import Stack, clean_environment, run_trainshed


def test_a_run_is_proved_and_its_certificate_checked_without_a_stack(stack: Stack, tmp_path: Path) -> None:
    run = stack.submit("--name", "to-be-proved", shell="true")
    stack.wait(run)
    told = stack.trainshed("audit", "prove", "to-be-proved", "--tlog-proof", "proofs", cwd=tmp_path)
    assert told.text == f"{run}.certificate.json\n"
    certificate = json.loads((tmp_path / f"{run}.certificate.json").read_bytes())
    events = stack.events(run)
    assert [int(event["sequence"]) for event in events] == [each["seq"] for each in certificate["events"]]
    for each in certificate["events"]:
        proof = parse_proof((tmp_path / "proofs" / f"{each['seq']}.tlog-proof").read_text())
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
