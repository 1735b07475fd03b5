"""An agent as a witness of its log: what its heartbeat says, and what it does with answers, messages and storage that fail."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs
from structlog.typing import EventDict

from events.codec import decode_heartbeat
from events.log import last_message
from events.types import NodeHeartbeat, NodeJoined
from projections.audit.against import read_checkpoints
from projections.transparency.checkpoint import SignedHead, TreeHead, origin_of
from projections.transparency.note import KeyKind, NoteSignature, SignerKey, VerifierKey, signed, verified
from services.agent.witness.keeping import Keeping
from tests.integration.agent.stage import NODE, Stage, new_ref, python
from tests.support import NatsServer, eventually
from tests.support.stored_log import projecting
from tests.support.tree import folded
from trainshed_client import subjects


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage on which nobody waits long."""
    monkeypatch.setattr("services.projector.publishing.CHECKPOINT_EVERY_S", 0.1)
    monkeypatch.setattr("services.agent.reports.heartbeats.NODE_EVERY_S", 0.3)
    for name in ("SPREAD_S", "PAUSE_S"):
        monkeypatch.setattr(f"services.agent.witness.witness.{name}", 0.0)
    for name in ("AGAIN_S", "ANSWER_WITHIN_S"):
        monkeypatch.setattr(f"services.agent.witness.witness.{name}", 0.3)
    monkeypatch.setattr("services.agent.witness.own_events.PAUSE_S", 0.0)
    return await Stage.set_up(nats_server, tmp_path)


@asynccontextmanager
async def signing(stage: Stage) -> AsyncIterator[None]:
    """A projector that keeps the records, and so signs."""
    async with projecting(
        await stage.server.client("projector"), stage.root / "projector" / "t.db", records=True
    ):
        yield


async def heartbeat(stage: Stage) -> NodeHeartbeat | None:
    found = await last_message(stage.nc, subjects.HEARTBEATS_STREAM, subjects.node_heartbeat(NODE))
    said = None if found is None else decode_heartbeat(found.subject, found.body)
    return said if isinstance(said, NodeHeartbeat) else None


async def heartbeats_stored(stage: Stage) -> int:
    """The sequence of the last."""
    found = await last_message(stage.nc, subjects.HEARTBEATS_STREAM, subjects.node_heartbeat(NODE))
    return 0 if found is None else found.seq


async def cosigned(stage: Stage, size: int) -> NodeHeartbeat:
    """The first heartbeat with a cosignature of a tree of that size or more."""
    found: list[NodeHeartbeat] = []

    async def is_there() -> bool:
        said = await heartbeat(stage)
        if said is not None and said.cosignature is not None and said.cosignature.size >= size:
            found.append(said)
        return bool(found)

    await eventually(is_there, 15)
    return found[0]


async def objecting(stage: Stage) -> NodeHeartbeat:
    """The first heartbeat with an objection."""
    found: list[NodeHeartbeat] = []

    async def is_there() -> bool:
        said = await heartbeat(stage)
        if said is not None and said.objection is not None:
            found.append(said)
        return bool(found)

    await eventually(is_there, 15)
    return found[0]


class Played:
    """The signer and the projector, played by the test: ``answer`` is given the call's last word and its request."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.key = SignerKey(origin_of(stage.log_id), KeyKind.ED25519, b"k" * 32)
        self.answer: Callable[[str, Any], Any] = lambda call, asked: None
        self.asked: list[str] = []

    async def listen(self) -> None:
        async def receive(msg: Msg) -> None:
            call = msg.subject.rpartition(".")[2]
            self.asked.append(call)
            answer = self.answer(call, msgspec.json.decode(msg.data))
            if answer is not None:
                await msg.respond(msgspec.json.encode(answer))

        await self.stage.nc.subscribe("trainshed.api.audit.*", cb=receive)

    async def publish(self, size: int, root: bytes, **more: Any) -> None:
        text = TreeHead(self.key.name, size, root).text
        message = {
            "v": 1,
            "log_id": self.stage.log_id,
            "vkey": str(self.key.verifier),
            "checkpoint": signed(text, [self.key.sign(text)]),
            "accepted": None,
            **more,
        }
        await self.stage.nc.publish(subjects.WATCH_CHECKPOINT, msgspec.json.encode(message))


async def test_ordinary_work_is_cosigned_with_the_key_that_it_joined_with(stage: Stage) -> None:
    async with signing(stage), stage.agent():
        ref = new_ref()
        await stage.dispatch(ref, python("print(1)"))
        await stage.ended(ref)
        end = await stage.log.end()
        said = await cosigned(stage, end)
    assert said.objection is None
    assert said.cosignature is not None
    joined = await stage.last(NodeJoined)
    assert joined.witness is not None
    vkey = VerifierKey.parse(joined.witness)
    assert (vkey.name, vkey.kind) == (f"{origin_of(stage.log_id)}/{NODE}", KeyKind.COSIGNATURE)
    head = TreeHead(origin_of(stage.log_id), said.cosignature.size, base64.b64decode(said.cosignature.root))
    whole = await folded(stage.log)
    assert head.size <= whole.size
    signature = said.cosignature.time.to_bytes(8, "big") + base64.b64decode(said.cosignature.signature)
    note = SignedHead.parse(signed(head.text, [NoteSignature(vkey.name, vkey.key_id, signature)]))
    assert verified(note.note, [vkey]) == (vkey,)
    # the same, as it is kept for whoever verifies the log against it
    kept = SignedHead.parse((stage.root / "node/witness/checkpoint").read_bytes())
    assert vkey in verified(kept.note, [vkey])
    hourly = read_checkpoints((stage.root / "node/witness/checkpoints").read_bytes(), "checkpoints")
    assert len(hourly) == 1
    # never in the log
    assert not [stored for stored in await stage.events() if said.cosignature.signature in str(stored)]


async def test_an_acknowledged_event_that_the_log_lost_is_objected_to_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "services.agent.reports.heartbeats.NODE_EVERY_S", 60.0
    )  # no heartbeat comes by itself
    played = Played(stage)
    leaf = b"l" * 32

    def answer(call: str, asked: Any) -> Any:
        if call == "inclusion":  # a proof that holds, of another event in its place
            return {
                "v": 1,
                "event": asked["event"],
                "index": asked["event"] - 1,
                "size": asked["size"],
                "leaf": leaf,
                "proof": [],
            }
        return None

    played.answer = answer
    await played.listen()
    async with stage.agent():
        joined = await stage.log.last(subjects.node_event(NODE, subjects.Role.AGENT, "node_joined"))
        assert joined is not None
        await asyncio.sleep(0.3)  # it has got its own NodeJoined back
        await played.publish(joined.seq, leaf)
        said = await objecting(stage)
        assert said.objection is not None
        assert said.objection.kind == "own_words"
        assert f"event {joined.seq} " in said.objection.text
        assert said.cosignature is None
        ref = new_ref()
        await stage.dispatch(ref, python("print(1)"))
        await stage.ended(ref)  # it goes on working


async def test_silence_and_garbage_on_the_subject_are_no_objection(stage: Stage) -> None:
    played = Played(stage)
    await played.listen()
    with capture_logs() as printed:
        async with stage.agent():
            await played.publish(1, b"r" * 32)
            await cosigned(stage, 1)  # none of its events is in it: nothing is asked
            await played.publish(5, b"s" * 32)
            await eventually(
                lambda: played.asked.count("consistency") >= 3, 15
            )  # asked again, as nobody answers
            for garbage in (b"", b"{}", b"\xff\xfe", b'{"vkey": 1, "checkpoint": 2}'):
                await stage.nc.publish(subjects.WATCH_CHECKPOINT, garbage)
            other = SignerKey(played.key.name, KeyKind.ED25519, b"o" * 32)
            await played.publish(3, b"t" * 32, vkey=str(other.verifier))  # signed by another than it says
            await eventually(lambda: warned(printed) > 0, 15)
            await asyncio.sleep(1.5)  # another one would come by then
            said = await heartbeat(stage)
            assert said is not None
            assert said.objection is None
            assert said.cosignature is not None
            assert said.cosignature.size == 1
    assert warned(printed) == 1


def warned(printed: list[EventDict]) -> int:
    """How many warnings were of a message that is no checkpoint."""
    return sum("as a checkpoint of the log is none" in str(line["event"]) for line in printed)


async def test_an_objection_and_what_was_signed_outlive_the_agent(stage: Stage) -> None:
    played = Played(stage)
    await played.listen()
    async with stage.agent() as running:
        await played.publish(7, b"r" * 32)
        await eventually(lambda: "inclusion" in played.asked, 10)
        played.answer = lambda call, asked: None
        running.agent.stop()
    folder = stage.root / "node/witness"
    trust = Keeping(folder).trust(origin_of(stage.log_id))
    assert trust.kept is None  # its own event was not found yet: nobody answered
    async with signing(stage):
        async with stage.agent():
            before = await cosigned(stage, 1)
        async with stage.agent():
            again = await cosigned(stage, 1)
            assert again.cosignature is not None
            assert before.cosignature is not None
            assert again.cosignature.size >= before.cosignature.size
    # another signer, whose log is smaller
    async with stage.agent():
        await played.publish(1, b"x" * 32)
        said = await objecting(stage)
        assert said.objection is not None
        assert said.objection.kind == "other_key"
        await eventually(lambda: Keeping(folder).trust(played.key.name).objection == said.objection, 10)
    async with stage.agent():
        still = await objecting(stage)
        assert still.objection == said.objection
        assert still.cosignature is not None
    assert len((folder / "objections.jsonl").read_text().splitlines()) == 1
    assert json.loads((folder / "objections.jsonl").read_text())["vkey"] == str(played.key.verifier)


async def test_storage_that_hangs_holds_up_neither_work_nor_objection(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, asked = threading.Event(), list[object]()

    def hang(_: Keeping, trust: object) -> None:
        asked.append(trust)
        released.wait(60)

    monkeypatch.setattr(Keeping, "keep", hang)
    played = Played(stage)
    await played.listen()
    try:
        async with stage.agent():
            await played.publish(1, b"r" * 32)
            ref = new_ref()
            await stage.dispatch(ref, python("print(1)"))
            await stage.ended(ref)
            await eventually(lambda: len(asked) > 0, 10)  # it was cosigned, and is being kept
            seen = await heartbeats_stored(stage)

            async def two_more() -> bool:
                return await heartbeats_stored(stage) >= seen + 2

            await eventually(two_more, 10)
            said = await heartbeat(stage)
            assert said is not None
            assert said.cosignature is None  # what is not kept is not said
            await played.publish(1, b"s" * 32)
            objected = await objecting(stage)
            assert objected.objection is not None
            assert objected.objection.kind == "forked"
    finally:
        released.set()


async def test_storage_that_is_full_for_a_while_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.file_writer.AGAIN_S", 0.1)
    keep, tries = Keeping.keep, []

    def full_at_first(self: Keeping, trust: Any) -> None:
        tries.append(1)
        if len(tries) < 4:
            raise OSError(28, "No space left on device", "x")
        keep(self, trust)

    monkeypatch.setattr(Keeping, "keep", full_at_first)
    async with signing(stage), stage.agent():
        await cosigned(stage, 1)
    assert len(tries) >= 4
