"""The witness's pure step: what it takes, what it objects to, and that nothing but a new acceptance ends an objection."""

from __future__ import annotations

import enum
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.codec import Writer
from events.types import LogAccepted
from projections.audit.against import read_checkpoints
from projections.transparency.checkpoint import SignedHead, TreeHead, origin_of
from projections.transparency.fold import leaf_of
from projections.transparency.note import KeyKind, SignerKey, signed, verified
from projections.transparency.tree import leaf_hash
from services.agent.reports.own_reports import StrangeEvent
from services.agent.witness import keeping, machine
from services.agent.witness.key import witness_key
from services.agent.witness.own_events import AcknowledgedEvent, Lost, as_stored
from services.agent.witness.published import cosign, has_signed, read_published
from services.agent.witness.values import (
    Again,
    Answered,
    AskAcceptance,
    AskConsistency,
    AskOwnEvents,
    BeginAnew,
    Consistency,
    Inclusion,
    Input,
    Keep,
    KeptCheckpoint,
    LogAcceptance,
    NotAppended,
    Object,
    ObjectionKind,
    OwnEvent,
    OwnEventsFound,
    Published,
    SeenCheckpoint,
    Stage,
    Trust,
    Wanted,
    WitnessState,
)
from tests.unit import tree_reference as rfc
from trainshed_client.direct_get import Message
from trainshed_client.errors import TrainshedError
from trainshed_client.subjects import LOG_ACCEPTED, Role

LOG_ID = "01a2"
ORIGIN = origin_of(LOG_ID)
NOW = "2026-11-24T10:00:00Z"
ACCEPTED = Writer(Role.GATEWAY, lambda: 0, lambda: "01a2").new(LogAccepted(reason="a backup")).body
ROLLED_BACK, FORKED, NOT_EXTENDED, OWN_EVENTS, OTHER_KEY, OTHER_LOG, NOT_APPENDED = ObjectionKind


class Projector(enum.Enum):
    """How it answers."""

    HONEST = enum.auto()
    SILENT = enum.auto()
    GARBAGE = enum.auto()


class Scene:
    """A log, whoever publishes its checkpoints, and one witness."""

    def __init__(self) -> None:
        self.log: list[Message] = []
        self.clock = 0
        self.vkey = "key 0"
        self.state = WitnessState(trust=Trust(origin=ORIGIN))
        self.kept_log: list[Message] | None = None
        self.own: list[OwnEvent] = []
        self.wanted: list[Wanted] = []

    # --- the log ---

    def append(self, subject: str = "x") -> Message:
        self.clock += 1
        body = ACCEPTED if subject == LOG_ACCEPTED else f"{self.clock}".encode()
        message = Message(len(self.log) + 1, self.clock, subject, body)
        self.log.append(message)
        return message

    def say(self) -> None:
        message = self.append("own")
        self.own.append(OwnEvent(message.seq, message.stored_ns, "own", leaf_hash(self.leaf(message))))

    def alter(self, place: int) -> None:
        self.clock += 1
        self.log[place] = self.log[place]._replace(body=f"forged {self.clock}".encode())

    @staticmethod
    def leaf(message: Message) -> bytes:
        return leaf_of(*message)

    def leaves(self, size: int) -> list[bytes]:
        return [self.leaf(message) for message in self.log[:size]]

    # --- what is published, and what is answered ---

    def seen(self) -> SeenCheckpoint:
        head = TreeHead(ORIGIN, len(self.log), rfc.mth(self.leaves(len(self.log))))
        accepted = [message for message in self.log if message.subject == LOG_ACCEPTED]
        last = LogAcceptance(*accepted[-1]) if accepted else None
        return SeenCheckpoint(head, head.text, self.vkey, last)

    def answer(self, wanted: Wanted, how: Projector) -> Any:
        if how is Projector.SILENT:
            return None
        match wanted:
            case AskConsistency(first, second):
                if how is Projector.GARBAGE:
                    return Consistency(first, second, b"?" * 32, (b"!" * 32,))
                leaves = self.leaves(second)
                return Consistency(
                    first, second, rfc.mth(leaves[:first]), tuple(rfc.proof(first, leaves)) if first else ()
                )
            case AskOwnEvents(head, first):
                for event in [event for event in self.own if event.seq <= head.size]:
                    if not machine.is_proven(event, self.inclusion(event.seq, head.size, how), head, first):
                        return OwnEventsFound(missing=f"event {event.seq} is not there")
                found = [event.stored_ns for event in self.own if event.seq <= head.size]
                return OwnEventsFound(first=1 if found else None, newest_ns=max(found, default=0))
            case AskAcceptance(event, size):
                return self.inclusion(event, size, how)
            case _:
                raise AssertionError(wanted)

    def inclusion(self, event: int, size: int, how: Projector) -> Inclusion:
        if how is Projector.GARBAGE:
            return Inclusion(event, event - 1, size, b"?" * 32, (b"!" * 32,))
        leaves = self.leaves(size)
        return Inclusion(
            event, event - 1, size, leaf_hash(leaves[event - 1]), tuple(rfc.path(event - 1, leaves))
        )

    def publish(self, how: Projector = Projector.HONEST) -> None:
        self._feed(Published(self.seen(), NOW), how)

    def again(self, how: Projector = Projector.HONEST) -> None:
        self._feed(Again(), how)

    def _feed(self, given: Input | None, how: Projector) -> None:
        while given is not None:
            self.state, wanted = machine.step(self.state, given)
            given = None
            if wanted is None:
                return
            self.wanted.append(wanted)
            match wanted:
                case AskConsistency() | AskOwnEvents() | AskAcceptance():
                    given = Answered(self.answer(wanted, how), NOW)
                case Keep(seen) | BeginAnew(seen):
                    self.kept_log = self.log[: seen.head.size]
                    self.own = [event for event in self.own if event.seq > seen.head.size]
                    if isinstance(wanted, BeginAnew):
                        self.own = []
                case Object():
                    pass

    def crash(self) -> None:
        """All that is not kept is forgotten."""
        kept = msgspec.json.decode(msgspec.json.encode(self.state.trust), type=Trust)
        assert kept == self.state.trust
        self.state = WitnessState(trust=kept)
        self.own = []

    # --- what should come of it ---

    @property
    def kind(self) -> str | None:
        objection = self.state.trust.objection
        return None if objection is None else objection.kind

    def expected(self) -> str | None:
        """What a witness that is clean has against the log as it is."""
        kept = self.kept_log
        if kept is not None and self.log[: len(kept)] != kept:
            known = self.vkey in self.state.trust.vkeys
            if len(self.log) < len(kept):
                return ROLLED_BACK if known else OTHER_KEY
            if len(self.log) == len(kept):
                return FORKED if known else OTHER_KEY
            return NOT_EXTENDED if known else OTHER_KEY
        for event in self.own:
            if event.seq <= len(self.log) and leaf_hash(self.leaf(self.log[event.seq - 1])) != event.leaf:
                return OWN_EVENTS
        return None


OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["append", "say"]), st.integers(1, 5)),
    st.tuples(st.sampled_from(["roll back", "alter"]), st.integers(0, 1_000)),
    st.tuples(
        st.sampled_from(["accept", "key", "crash", "publish", "publish", "publish", "silence", "again"]),
        st.just(0),
    ),
)


@settings(max_examples=400)
@given(st.lists(OPERATIONS, max_size=40))
def test_it_takes_what_extends_what_it_has_seen_and_nothing_else(operations: list[tuple[str, int]]) -> None:
    scene, accepted = Scene(), False
    used: set[Message] = set()
    for what, number in operations:
        match what:
            case "append":
                for _ in range(number):
                    scene.append()
            case "say":
                scene.say()
            case "roll back":
                del scene.log[number % (len(scene.log) + 1) :]
            case "alter" if scene.log:
                scene.alter(number % len(scene.log))
            case "accept":
                scene.append(LOG_ACCEPTED)
                accepted = True
            case "key":
                scene.vkey = f"key {int(scene.vkey[4:]) + 1}"
            case "crash":
                scene.crash()
            case "silence":
                before, kept = scene.state.trust, scene.kept_log or []
                shown = before.kept is not None and len(scene.log) <= len(kept)  # by the checkpoint itself
                expected = scene.expected() if shown else None
                scene.wanted.clear()
                scene.publish(Projector.SILENT)
                assert scene.kept_log == (None if before.kept is None else kept)
                if before.objection is not None:
                    assert scene.state.trust == before
                else:
                    assert scene.kind == (expected if expected != OWN_EVENTS else None)
                    assert any(isinstance(wanted, Object) for wanted in scene.wanted) == (
                        scene.kind is not None
                    )
            case "publish" | "again":
                before, kept_before = scene.state.trust, scene.kept_log
                expected = scene.expected()
                scene.wanted.clear()
                if what == "again" and (scene.state.looking is None or scene.state.looking != scene.seen()):
                    continue  # it would be asked of a tree that is no more
                scene.publish() if what == "publish" else scene.again()
                if before.objection is None:
                    if what == "publish":
                        assert scene.kind == expected
                    if scene.kind is None and what == "publish":
                        assert scene.kept_log == scene.log
                    if scene.kind is not None:
                        assert scene.kept_log == kept_before
                        assert scene.state.trust.kept == before.kept
                elif scene.kind is None:
                    [anew] = [wanted for wanted in scene.wanted if isinstance(wanted, BeginAnew)]
                    by = Message(*msgspec.structs.astuple(anew.acceptance))
                    assert by in scene.log
                    assert by not in used
                    assert by not in (kept_before or [])
                    used.add(by)
                    assert scene.kept_log == scene.log
                else:
                    assert scene.state.trust.objection == before.objection
                    assert scene.kept_log == kept_before
                    last = [message for message in scene.log if message.subject == LOG_ACCEPTED]
                    assert not (accepted and last and last[-1].stored_ns == scene.clock)
                accepted = False


@pytest.mark.parametrize("size", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("more", [1, 2, 5])
def test_each_attack_has_its_name(size: int, more: int) -> None:
    def scene() -> Scene:
        made = Scene()
        for _ in range(size):
            made.append()
        made.publish()
        assert made.kept_log == made.log
        return made

    back = scene()
    back.log.pop()
    back.publish()
    assert back.kind == ROLLED_BACK

    forked = scene()
    forked.alter(size - 1)
    forked.publish()
    assert forked.kind == FORKED

    forged = scene()
    forged.alter(size // 2)
    for _ in range(more):
        forged.append()
    forged.publish()
    assert forged.kind == NOT_EXTENDED

    lost = scene()
    lost.say()
    lost.log.pop()
    for _ in range(more):
        lost.append()
    lost.publish()
    assert lost.kind == OWN_EVENTS

    other = scene()
    other.vkey = "key 1"
    other.alter(0)
    other.append()
    other.publish()
    assert other.kind == OTHER_KEY
    assert other.state.trust.objection is not None
    assert "key 1" in other.state.trust.objection.text

    new_log = scene()
    seen = new_log.seen()
    elsewhere = msgspec.structs.replace(
        seen, head=msgspec.structs.replace(seen.head, origin="trainshed/other")
    )
    new_log.state, _ = machine.step(new_log.state, Published(elsewhere, NOW))
    assert new_log.kind == OTHER_LOG


def test_another_key_is_taken_where_its_checkpoint_extends_what_was_seen() -> None:
    scene = Scene()
    scene.append()
    scene.publish()
    scene.append()
    scene.vkey = "key 1"
    scene.publish()
    assert scene.kind is None
    assert isinstance(scene.wanted[-1], Keep)
    assert scene.wanted[-1].new_key
    assert scene.state.trust.vkeys == ("key 0", "key 1")
    scene.append()
    scene.vkey = "key 0"
    scene.publish()
    assert isinstance(scene.wanted[-1], Keep)
    assert not scene.wanted[-1].new_key


def test_no_answer_is_no_objection_and_is_asked_again() -> None:
    scene = Scene()
    scene.append()
    scene.publish()
    scene.append()
    scene.say()
    for stage in (Stage.CONSISTENCY, Stage.CONSISTENCY):
        scene.publish(Projector.SILENT)
        assert scene.state.stage is stage
        assert scene.kind is None
        assert scene.kept_log == scene.log[:1]
    scene.again()
    assert scene.kept_log == scene.log


def test_answers_that_prove_nothing_are_an_objection_after_three() -> None:
    scene = Scene()
    scene.append()
    scene.publish()
    scene.append()
    scene.wanted.clear()
    scene.publish(Projector.GARBAGE)
    asked = [wanted for wanted in scene.wanted if isinstance(wanted, AskConsistency)]
    assert [wanted.pause for wanted in asked] == [False, True, True]
    assert scene.kind == NOT_EXTENDED


def test_a_forged_acceptance_ends_no_objection() -> None:
    scene = Scene()
    for _ in range(5):
        scene.append()
    scene.publish()
    scene.log.pop()
    scene.publish()
    assert scene.kind == ROLLED_BACK
    scene.append()
    scene.append()
    seen = scene.seen()
    for forged in (
        LogAcceptance(6, scene.clock, LOG_ACCEPTED, b"not in the tree"),
        LogAcceptance(*scene.log[-1]),  # in the tree, and of another kind
    ):
        given: Input | None = Published(msgspec.structs.replace(seen, accepted=forged), NOW)
        scene._feed(given, Projector.HONEST)
        assert scene.kind == ROLLED_BACK


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[" * 100_000, ACCEPTED.replace(b'"reason"', b'"because"'), b"\xff"]
)
def test_what_no_audit_can_show_as_an_acceptance_ends_no_objection(body: bytes) -> None:
    scene = Scene()
    for _ in range(5):
        scene.append()
    scene.publish()
    scene.log.pop()
    scene.publish()
    scene.append(LOG_ACCEPTED)
    scene.log[-1] = scene.log[-1]._replace(body=body)  # a leaf of the log, on the right subject
    scene.publish()
    assert scene.kind == ROLLED_BACK
    scene.append(LOG_ACCEPTED)
    scene.publish()
    assert scene.kind is None


def test_a_log_that_goes_back_to_an_old_acceptance_is_not_let_off_by_it() -> None:
    scene = Scene()
    scene.append()
    scene.append(LOG_ACCEPTED)
    scene.append()
    scene.append(LOG_ACCEPTED)
    scene.append()
    scene.publish()
    assert scene.kind is None
    assert not machine.is_too_old(scene.state.trust, scene.seen())  # there is nothing to end
    for size in (4, 3, 2):
        del scene.log[size:]
        scene.publish()
        assert scene.kind == ROLLED_BACK
        assert machine.is_too_old(scene.state.trust, scene.seen())
    scene.append(LOG_ACCEPTED)
    assert not machine.is_too_old(scene.state.trust, scene.seen())
    scene.publish()
    assert scene.kind is None
    assert isinstance(scene.wanted[-1], BeginAnew)


# --- the message, the cosignature and the files -----------------------------------------------------------

LOG_KEY = SignerKey(ORIGIN, KeyKind.ED25519, b"l" * 32)


def note_of(size: int, key: SignerKey = LOG_KEY) -> str:
    text = TreeHead(ORIGIN, size, bytes([size % 256]) * 32).text
    return signed(text, [key.sign(text)])


def message(**fields: Any) -> bytes:
    whole = {
        "v": 1,
        "log_id": LOG_ID,
        "vkey": str(LOG_KEY.verifier),
        "checkpoint": note_of(7),
        "accepted": None,
    }
    return msgspec.json.encode({**whole, **fields})


def test_a_published_checkpoint_is_verified() -> None:
    seen = read_published(message(accepted={"seq": 1, "stored_ns": 2, "subject": "s", "body": "aGk="}))
    assert (seen.head.size, seen.vkey) == (7, str(LOG_KEY.verifier))
    assert seen.accepted == LogAcceptance(1, 2, "s", b"hi")
    other = SignerKey(ORIGIN, KeyKind.ED25519, b"o" * 32)
    cosigner = SignerKey(ORIGIN, KeyKind.COSIGNATURE, b"o" * 32)
    more = f"{seen.head.text}an extension line, of which a heartbeat has nothing\n"
    for wrong in (
        b"",
        b"[]",
        message(checkpoint=note_of(7).replace("\n7\n", "\n8\n")),
        message(checkpoint=note_of(7, other)),
        message(vkey=str(other.verifier)),
        message(vkey=str(cosigner.verifier), checkpoint=note_of(7, cosigner)),
        message(vkey=7),
        message(checkpoint="x"),
        message(checkpoint=signed(more, [LOG_KEY.sign(more)])),
    ):
        with pytest.raises(TrainshedError):
            read_published(wrong)


def test_a_cosigned_checkpoint_verifies_with_both_keys(tmp_path: Any) -> None:
    key = witness_key(tmp_path, LOG_ID, "gpu01")
    assert (tmp_path / "witness.key").stat().st_mode & 0o777 == 0o600
    assert witness_key(tmp_path, LOG_ID, "gpu01") == key
    note, cosignature = cosign(read_published(message()), key, 1_764_412_800)
    found = SignedHead.parse(note)
    assert len(verified(found.note, [LOG_KEY.verifier, key.verifier])) == 2
    assert (cosignature.size, cosignature.time) == (7, 1_764_412_800)
    raw = cosignature.time.to_bytes(8, "big") + msgspec.json.decode(
        msgspec.json.encode(cosignature.signature), type=bytes
    )
    assert key.verifier.has_signed(found.note.text, raw)
    assert str(key.verifier).startswith(f"trainshed/{LOG_ID}/gpu01+")
    assert has_signed(key, note)
    assert not has_signed(key, note_of(7))
    assert not has_signed(witness_key(tmp_path / "another", LOG_ID, "gpu01"), note)


def test_a_key_that_cannot_be_used_is_set_aside(tmp_path: Any) -> None:
    first = witness_key(tmp_path, LOG_ID, "gpu01")
    for damage in (b"", b"x", b"\xff", first.text.encode()[:-4]):
        (tmp_path / "witness.key").write_bytes(damage)
        assert witness_key(tmp_path, LOG_ID, "gpu01") != first
        assert (tmp_path / "witness.key.old").read_bytes() == damage
    assert witness_key(tmp_path, LOG_ID, "gpu02").name.endswith("/gpu02")


def test_the_hours_are_a_file_that_verify_reads_and_stay_few(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "HOURS_KEPT", 10)
    kept = keeping.Keeping(tmp_path)
    for size in range(1, 40):
        for _ in range(2):
            kept.keep_hourly(note_of(size))
        sizes = [
            one.head.size for one in read_checkpoints((tmp_path / "checkpoints").read_bytes(), "checkpoints")
        ]
        assert len(sizes) <= 10
        assert sizes == sorted(set(sizes))
        assert sizes[-5:] == list(range(max(1, size - 4), size + 1))
    assert sizes[0] == 1


def test_what_cannot_be_read_of_what_was_kept_is_set_aside(tmp_path: Any) -> None:
    kept = keeping.Keeping(tmp_path)
    trust = Trust(origin=ORIGIN, vkeys=("a",), newest_ns=1 << 60)
    kept.keep(trust)
    assert kept.trust(ORIGIN) == trust
    assert kept.trust("trainshed/other") == Trust(origin="trainshed/other")
    assert (tmp_path / "witness.json.old").exists()
    taken = KeptCheckpoint(7, read_published(message()).head.root, note_of(7))
    for damage in (
        b"{",
        b"\xff",
        b'{"more":' + b"[" * 200_000,
        msgspec.json.encode(Trust(origin=ORIGIN, kept=msgspec.structs.replace(taken, note="cut"))),
        msgspec.json.encode(Trust(origin=ORIGIN, kept=msgspec.structs.replace(taken, size=8))),
    ):
        (tmp_path / "witness.json").write_bytes(damage)
        assert kept.trust(ORIGIN) == Trust(origin=ORIGIN)
        assert (tmp_path / "witness.json.old").read_bytes() == damage
    kept.keep(whole := Trust(origin=ORIGIN, kept=taken))
    assert kept.trust(ORIGIN) == whole


def test_the_hours_of_another_log_are_kept_apart(tmp_path: Any) -> None:
    kept = keeping.Keeping(tmp_path)
    kept.keep(Trust(origin=ORIGIN))
    kept.keep_hourly(note_of(7))
    assert kept.trust("trainshed/other") == Trust(origin="trainshed/other")
    assert not (tmp_path / "checkpoints").exists()
    assert read_checkpoints((tmp_path / "checkpoints.old").read_bytes(), "checkpoints")


def test_files_that_are_damaged_stop_no_witness(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MAX_OBJECTIONS_BYTES", 100)
    kept = keeping.Keeping(tmp_path)
    (tmp_path / "checkpoints").write_bytes(b"\xff\xfe")
    kept.keep_hourly(note_of(7))
    assert read_checkpoints((tmp_path / "checkpoints").read_bytes(), "checkpoints")
    assert (tmp_path / "checkpoints.old").read_bytes() == b"\xff\xfe"
    (tmp_path / "objections.jsonl").write_bytes(b"x" * 200)
    kept.note(keeping.Noted(1, NOW, "objected", "seen", "vkey"))
    [line] = (tmp_path / "objections.jsonl").read_bytes().splitlines()
    assert msgspec.json.decode(line)["what"] == "objected"


def test_what_became_of_an_acknowledged_event() -> None:
    from hashlib import sha256

    event = AcknowledgedEvent(7, "s", sha256(b"body").digest())
    stored = Message(7, 123, "s", b"body")
    assert as_stored(event, stored) == OwnEvent(7, 123, "s", leaf_hash(leaf_of(*stored)))
    assert as_stored(event, Message(8, 124, "s", b"more")) is Lost.FOLLOWED
    for gone in (None, Message(6, 1, "s", b"body"), Message(7, 123, "s", b"other")):
        assert as_stored(event, gone) is Lost.GONE


def _strange(scene: Scene) -> NotAppended:
    message = scene.append("forged")
    return NotAppended(StrangeEvent(message.seq, message.stored_ns, f"event {message.seq}"), NOW)


def test_what_it_did_not_say_is_an_objection_until_it_is_accepted_and_then_no_more() -> None:
    scene = Scene()
    scene.append()
    scene.publish()
    forged = _strange(scene)
    scene.say()
    scene.publish()  # a checkpoint that has both is taken: only the node can know
    assert scene.kind is None
    scene._feed(forged, Projector.HONEST)
    assert scene.kind == NOT_APPENDED
    objection = scene.state.trust.objection
    assert objection is not None
    assert (objection.event, objection.kept_size, objection.size) == (2, 3, 2)
    assert scene.wanted[-1] == Object(objection, None)
    scene.append()
    scene.publish()
    scene.crash()
    scene.publish()
    assert (scene.kind, len(scene.kept_log or [])) == (NOT_APPENDED, 3)
    scene.append(LOG_ACCEPTED)
    scene.publish()
    assert scene.kind is None
    assert scene.kept_log == scene.log
    scene.crash()
    scene._feed(forged, Projector.HONEST)  # it is in the log for good, and stands under what was accepted
    assert scene.kind is None
    scene._feed(_strange(scene), Projector.HONEST)
    assert scene.kind == NOT_APPENDED


def test_of_several_that_it_did_not_say_the_first_stands_and_each_is_told() -> None:
    scene = Scene()
    first, second = _strange(scene), _strange(scene)
    for event in (first, second, first):
        scene._feed(event, Projector.HONEST)
    told = [wanted.objection.event for wanted in scene.wanted if isinstance(wanted, Object)]
    assert told == [1, 2]
    objection = scene.state.trust.objection
    assert objection is not None
    assert objection.event == 1


def test_an_acceptance_from_before_the_forged_event_does_not_end_its_objection() -> None:
    scene = Scene()
    scene.append(LOG_ACCEPTED)
    scene._feed(_strange(scene), Projector.HONEST)
    scene.publish()
    assert scene.kind == NOT_APPENDED
