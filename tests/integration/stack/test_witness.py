"""Whoever holds the server cannot change the log behind the nodes' backs: each is a witness of it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from events.feed import api_call
from events.log import EventLog
from events.streams import ensure_streams, events_stream
from projections.transparency.checkpoint import SignedHead
from services import failpoints
from services.access.local_realm import Unconfined
from services.nats_server.embedded_nats import EmbeddedNats
from tests.support import eventually
from tests.support.stack import Stack, until
from trainshed_client import subjects
from trainshed_client.nats_client import connect

NewStack = Callable[..., Stack]
OBJECTS = "this node objects to the event log"


def _trust(stack: Stack) -> Any:
    try:
        return json.loads((stack.state_dir / "witness/witness.json").read_text())
    except FileNotFoundError:
        return None


def _size(stack: Stack) -> int:
    trust = _trust(stack)
    return 0 if trust is None or trust["kept"] is None else int(trust["kept"]["size"])


def _copied(stack: Stack) -> int:
    return SignedHead.parse((stack.state_dir / "witness/checkpoint").read_bytes()).head.size


def _objection(stack: Stack) -> Any:
    trust = _trust(stack)
    return None if trust is None else trust["objection"]


def _work(stack: Stack) -> None:
    """One run, and a checkpoint of all of it that the node has taken."""
    stack.wait(stack.submit(shell="exit 0"))
    end = stack.trainshed("audit", "verify", json=True)["seq"]
    until(lambda: _size(stack) >= end, 15.0, what="the node's cosigned checkpoint")
    until(lambda: _copied(stack) == _size(stack), what="the same checkpoint, written once more for people")


def _read_model(stack: Stack) -> list[Path]:
    return list(stack.state_dir.glob("trainshed.db*"))


def test_a_log_that_is_rolled_back_is_objected_to_until_somebody_accepts_it(
    new_stack: NewStack, tmp_path: Path
) -> None:
    stack = new_stack()
    state, backup = stack.state_dir, tmp_path / "backup"
    _work(stack)
    stack.stop()
    backup.mkdir()
    shutil.copytree(state / "nats", backup / "nats")
    for file in _read_model(stack):
        shutil.copy(file, backup)
    stack.start()
    _work(stack)
    stack.kill()  # what is taken is kept
    kept = _size(stack)
    assert _copied(stack) == kept

    shutil.rmtree(state / "nats")
    shutil.copytree(backup / "nats", state / "nats")
    for file in _read_model(stack):
        file.unlink()
    for file in backup.glob("trainshed.db*"):
        shutil.copy(file, state)
    stack.start()
    objection = until(lambda: _objection(stack), 20.0, what="the objection to a log that was rolled back")
    assert (objection["kind"], objection["kept_size"]) == ("rolled_back", kept)
    stack.wait(stack.submit(shell="exit 0"))  # it goes on working

    stack.stop(signal.SIGKILL)
    stack.start()
    until(
        lambda: len([line for line in stack.warnings() if line["event"] == OBJECTS]) == 2, 10.0
    )  # and says it again
    assert _size(stack) == kept
    verdict = stack.trainshed(
        "audit", "verify", "--against", str(state / "witness/checkpoints"), json=True, code=1
    )
    assert {violation["invariant"] for violation in verdict["violations"]} == {"I8"}

    stack.trainshed("audit", "accept", "--reason", "the disk died; yesterday's backup")
    until(lambda: _objection(stack) is None, 15.0, what="a new beginning")
    _work(stack)
    assert _objection(stack) is None
    lines = [json.loads(line) for line in (state / "witness/objections.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines] == ["objected", "accepted"]
    assert {SignedHead.parse(line["kept"]).head.size for line in lines} == {kept}
    [before] = (state / "witness").glob("checkpoints.before-*")
    stack.trainshed("audit", "verify", "--against", str(state / "witness/checkpoints"))
    stack.trainshed("audit", "verify", "--against", str(before), code=1)


@pytest.mark.parametrize("point", ["agent.witness_cosigned", "agent.witness_kept"])
def test_a_node_that_is_killed_as_it_signs_keeps_what_it_signed(
    new_stack: NewStack, tmp_path: Path, point: str
) -> None:
    armed = {failpoints.ARMED: f"{point}=kill@2", failpoints.ONCE_IN: str(tmp_path / "struck")}
    (tmp_path / "struck").mkdir()
    stack = new_stack(environment=armed)
    stack.submit(shell="exit 0")
    assert stack.process.wait(20) == -signal.SIGKILL
    before = _trust(stack)  # what a heartbeat may have said is never more than that
    assert before["cosignature"]["size"] == before["kept"]["size"] > 0
    stack.start()
    _work(stack)
    assert _objection(stack) is None
    assert _size(stack) > before["kept"]["size"]


async def _forge(state_dir: Path) -> None:
    """The log stored anew by whoever holds its server: all as it was, but one event in the middle says another thing."""
    server = EmbeddedNats(state_dir, Unconfined())
    await server.start()
    nc = await connect(server.endpoint, name="forger")
    try:
        log = EventLog(nc)
        messages = [message async for message in log.read_raw()]
        config = (await api_call(nc, f"STREAM.INFO.{subjects.EVENTS_STREAM}"))["config"]
        await api_call(nc, f"STREAM.DELETE.{subjects.EVENTS_STREAM}")
        await api_call(
            nc,
            f"STREAM.CREATE.{subjects.EVENTS_STREAM}",
            {**events_stream(1), "metadata": config["metadata"]},
        )
        forged = 0
        for message in messages:
            body = message.body
            if ".completed." in message.subject:
                body = body.replace(b'"exit_code":0', b'"exit_code":3')
                forged += body != message.body
            await nc.request(message.subject, body, timeout=5)
        assert forged == 1
        assert await log.end() == len(messages)
        await ensure_streams(nc)
    finally:
        await nc.close()
        await server.stop()


async def test_an_event_that_is_forged_in_the_middle_is_objected_to(new_stack: NewStack) -> None:
    stack = new_stack()
    _work(stack)
    stack.stop()
    await _forge(stack.state_dir)
    for file in _read_model(stack):
        file.unlink()
    shutil.rmtree(stack.state_dir / "audit/tile", ignore_errors=True)
    stack.start()
    await eventually(lambda: _objection(stack) is not None, 20)
    assert _objection(stack)["kind"] == "not_extended"
    [line] = [line for line in stack.warnings() if line["event"] == OBJECTS]
    assert line["level"] == "error"
