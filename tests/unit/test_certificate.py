"""A run's certificate: it holds as it was made, and no altered field of it does."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.log_maker import LogMaker
from projections.audit.certificate import Certificate, check, proof_files, proved_event, read_certificate
from projections.transparency.checkpoint import TreeHead, origin_of
from projections.transparency.fold import TreeFold, leaf_of
from projections.transparency.note import KeyKind, SignerKey, signed
from projections.transparency.tiles import StoredHashes
from projections.transparency.tree import inclusion_proof, is_included, leaf_hash
from services.cli.main import run as trainshed
from tests.support.tree import proof_in
from trainshed_client.direct_get import Message
from trainshed_client.errors import ExitCode, TrainshedError

KEY = SignerKey(origin_of("of-this-test"), KeyKind.ED25519, b"k" * 32)
NODES = [SignerKey(f"{KEY.name}/gpu0{n}", KeyKind.COSIGNATURE, bytes([n]) * 32) for n in (1, 2)]


def made() -> Certificate:
    log = LogMaker()
    log.elect()
    log.join()
    run_id = log.submit()
    log.submit()
    log.dispatch(run_id)
    log.start(run_id)
    log.complete(run_id)
    fold = TreeFold()
    fold.extend(log.messages)
    at = StoredHashes(fold.edge, lambda *_: b"").at
    text = TreeHead(KEY.name, fold.size, fold.root).text
    events = [
        proved_event(
            message,
            message.seq - 1,
            [base64.b64encode(each).decode() for each in inclusion_proof(message.seq - 1, fold.size, at)],
        )
        for message in log.messages
        if f".run.{run_id}." in message.subject
    ]
    checkpoint = signed(text, [KEY.sign(text), *(key.sign(text, 1_764_412_800) for key in NODES)])
    return Certificate(1, "of-this-test", KEY.name, str(KEY.verifier), run_id, checkpoint, tuple(events))


def test_a_certificate_holds_and_its_proof_files_do() -> None:
    certificate = read_certificate(msgspec.json.encode(made()))
    checked = check(certificate)
    assert checked.wrong == ()
    assert [message.subject.split(".")[5] for message in checked.events] == [
        "submitted",
        "dispatched",
        "started",
        "completed",
    ]
    files = proof_files(certificate)
    for message in checked.events:
        index, proof, head = proof_in(files[f"{message.seq}.tlog-proof"])
        assert is_included(leaf_hash(leaf_of(*message)), index, head.head.size, head.head.root, proof)


def _of_another_root() -> str:
    lines = made().checkpoint.split("\n")
    lines[2] = base64.b64encode(bytes(32)).decode()
    return "\n".join(lines)


def altered(**fields: Any) -> Certificate:
    certificate = made()
    event = {name: value for name, value in fields.items() if name in certificate.events[1].__struct_fields__}
    events = list(certificate.events)
    events[1] = msgspec.structs.replace(events[1], **event)
    rest = {name: value for name, value in fields.items() if name not in event}
    return msgspec.structs.replace(certificate, **{"events": tuple(events), **rest})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"body": "AAAA"}, "event 5 is not in the tree"),
        ({"stored_ns": 1}, "event 5 is not in the tree"),
        ({"seq": 6}, "event 6 is out of order"),
        ({"index": 5}, "event 5 is out of order"),
        ({"subject": "trainshed.events.run.other.agent.started.gpu01"}, "event 5 is not of run"),
        ({"run_id": "other"}, "is not of run other"),
        ({"checkpoint": _of_another_root()}, "is not what its key signed"),
    ],
)
def test_what_was_altered_is_named(fields: dict[str, Any], message: str, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(msgspec.json.encode(altered(**fields)))
    assert trainshed(["audit", "check", str(file)]) == ExitCode.VIOLATION
    assert message in capsys.readouterr().out


def test_a_certificate_that_is_cut_or_lacks_a_field_is_bad_input_that_names_it() -> None:
    whole = msgspec.json.encode(made())
    lacking = msgspec.json.decode(whole)
    del lacking["events"][1]["body"]
    text = whole.replace(b'"seq":5', b'"seq":"5"')
    for data, path in (
        (whole[:-9], "FILE"),
        (b"", "FILE"),
        (b'{"more":' + b"[" * 200_000, "FILE"),
        (msgspec.json.encode(lacking), "events[1]"),
        (text, "events[1].seq"),
    ):
        with pytest.raises(TrainshedError, match="as `trainshed audit prove` writes it") as refused:
            read_certificate(data)
        assert refused.value.path == path


def test_a_strangers_certificate_does_nothing_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_id, run_id = "a\u202eb\x9b31m", "mfrggzdfmztwq2lknnwg23tpob"
    key = SignerKey(origin_of(log_id), KeyKind.ED25519, b"k" * 32)
    message = Message(1, 5, f"trainshed.events.run.{run_id}.\x9b2J", b"")
    text = TreeHead(key.name, 1, leaf_hash(leaf_of(*message))).text
    certificate = Certificate(
        1,
        log_id,
        key.name,
        str(key.verifier),
        run_id,
        signed(text, [key.sign(text)]),
        (proved_event(message, 0, ()),),
    )
    file = tmp_path / "c.json"
    file.write_bytes(msgspec.json.encode(certificate))
    assert trainshed(["audit", "check", str(file)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "\\u202e" in out
    assert "\x9b" not in out


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"proof": made().events[1].proof[:-1]}, "events[1].proof"),
        ({"proof": (*made().events[1].proof[:-1], "AAAA")}, "events[1].proof"),
        ({"proof": (*made().events[1].proof[:-1], "no base64")}, "events[1].proof"),
        ({"index": 7}, "events[1].index"),
        ({"log_id": "another"}, "origin"),
        ({"vkey": "none"}, "vkey"),
        ({"vkey": str(SignerKey("trainshed/other", KeyKind.ED25519, b"k" * 32).verifier)}, "vkey"),
        ({"vkey": str(SignerKey(KEY.name, KeyKind.ED25519, b"o" * 32).verifier)}, "checkpoint"),
        ({"vkey": str(SignerKey(KEY.name, KeyKind.COSIGNATURE, b"k" * 32).verifier)}, "vkey"),
        ({"seq": 1 << 63}, "events[1].seq"),
        ({"stored_ns": 1 << 80}, "events[1].stored_ns"),
        ({"run_id": "\x1b[2J"}, "run_id"),
        ({"run_id": "*"}, "run_id"),
        ({"checkpoint": "cut"}, "checkpoint"),
        ({"events": ()}, "events"),
        ({"v": 2}, "v"),
    ],
)
def test_what_has_not_its_form_is_bad_input_that_names_the_field(
    fields: dict[str, Any], path: str, tmp_path: Path
) -> None:
    certificate = altered(**fields)
    with pytest.raises(TrainshedError) as refused:
        check(read_certificate(msgspec.json.encode(certificate)))
    assert refused.value.path == path
    file = tmp_path / "c.json"
    file.write_bytes(msgspec.json.encode(certificate))
    assert trainshed(["audit", "check", str(file)]) == ExitCode.BAD_INPUT


def test_audit_check_says_what_it_proves_and_what_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(msgspec.json.encode(made()))
    assert trainshed(["audit", "check", str(file)]) == ExitCode.OK
    told = capsys.readouterr().out
    assert "4 events in the log of-this-test" in told
    assert "that no other event of the run exists: trainshed audit verify does" in told
    assert trainshed(["audit", "check", str(tmp_path / "none.json")]) == ExitCode.BAD_INPUT
    file.write_bytes(b"[]")
    assert trainshed(["audit", "check", str(file)]) == ExitCode.BAD_INPUT


def _policy(tmp_path: Path, *lines: str) -> str:
    file = tmp_path / "p.policy"
    witnesses = [f"witness w{n} {key.verifier}" for n, key in enumerate(NODES, 1)]
    file.write_text("\n".join([*witnesses, *lines]))
    return str(file)


def _checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], certificate: Certificate, *lines: str
) -> tuple[int, str]:
    file = tmp_path / "c.json"
    file.write_bytes(msgspec.json.encode(certificate))
    code = trainshed(
        ["audit", "check", str(file), *(["--policy", _policy(tmp_path, *lines)] if lines else [])]
    )
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_whose_cosignatures_count_is_the_policys_to_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = _checked(tmp_path, capsys, made())
    assert code == ExitCode.OK
    assert f"that these cosigned it, whose keys nobody here knows: {NODES[0].name}, {NODES[1].name}" in told
    assert "whose key that is" in told
    log = f"log {KEY.verifier}"
    code, told = _checked(tmp_path, capsys, made(), log, "group both all w1 w2", "quorum both")
    assert code == ExitCode.OK
    assert "p.policy, cosigned by w1, w2\n" in told
    assert "whose key" not in told
    other = SignerKey(KEY.name, KeyKind.ED25519, b"o" * 32).verifier
    code, told = _checked(tmp_path, capsys, made(), f"log {other}", "quorum w1")
    assert (code, told) == (
        ExitCode.VIOLATION,
        "the checkpoint is not valid by the policy: it lacks the signature of a log of the policy\n",
    )


def test_a_cosignature_that_is_missing_or_altered_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = made()
    lines = whole.checkpoint.split("\n")
    assert "gpu02" in lines[-2]
    without = msgspec.structs.replace(whole, checkpoint="\n".join([*lines[:-2], ""]))
    log = f"log {KEY.verifier}"
    assert _checked(tmp_path, capsys, without, log, "quorum w1")[0] == ExitCode.OK
    code, told = _checked(tmp_path, capsys, without, log, "group both all w1 w2", "quorum both")
    assert (code, told) == (
        ExitCode.VIOLATION,
        "the checkpoint is not valid by the policy: it lacks a cosignature of w2\n",
    )
    name, signature = lines[-2].rsplit(" ", 1)
    raw = bytearray(base64.b64decode(signature))
    raw[11] ^= 1  # the last byte of its time
    line = f"{name} {base64.b64encode(raw).decode()}"
    forged = msgspec.structs.replace(whole, checkpoint="\n".join([*lines[:-2], line, ""]))
    assert _checked(tmp_path, capsys, forged)[0] == ExitCode.OK  # nobody knows whose it would be
    code, told = _checked(tmp_path, capsys, forged, log, "quorum w1")
    assert code == ExitCode.VIOLATION
    assert f"the signature of {NODES[1].name} does not hold" in told


def test_a_bad_policy_is_bad_input_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = _checked(tmp_path, capsys, made(), "quorum w3")
    assert code == ExitCode.BAD_INPUT
    assert "--policy" in told and "p.policy, line 3: no witness and no group above is called 'w3'" in told
    file = tmp_path / "c.json"
    assert trainshed(["audit", "check", str(file), "--policy", str(tmp_path / "none")]) == ExitCode.BAD_INPUT
    assert "--policy" in capsys.readouterr().err
