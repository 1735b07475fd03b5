"""What `audit verify` says of each event: it has its ground (I9), it came late, or it counted for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest

from bench.log_maker import LogMaker
from events.change import Change, EndedAttempt
from events.codec import StoredEvent, Unreadable, decode
from events.evolve import ended_runs_needed, evolve
from events.state import Run, State
from events.types import (
    ArtifactsHashed,
    Cancelled,
    CancelRequested,
    Failed,
    LogAccepted,
    NodeLost,
    NodeRemoved,
    Submitted,
)
from projections.audit.invariants import Invariants
from projections.audit.legality import Legality, NotCounted
from projections.audit.violation import MAX_VIOLATIONS, Violation
from tests.support.builders import Story
from tests.support.folded_logs import FOLDER
from tests.unit.test_recorded_log import a_log
from trainshed_client.direct_get import Message
from trainshed_client.statuses import FailureReason
from trainshed_client.subjects import Role

RELEASE_0_1 = Path(__file__).parents[1] / "release_0_1" / "log.jsonl"
FROM_STACKS = [
    RELEASE_0_1,
    *(FOLDER / f"{name}.jsonl" for name in ("at-fault", "out-of-memory", "release-0.1")),
]
"""Logs that real stacks wrote; the others were made up for the fold."""


def audited(messages: Iterable[Message]) -> tuple[list[Violation], Legality]:
    """What is wrong with a log, and what is said of its events."""
    return observed(
        (each.seq, decode(each.subject, each.body, each.seq, each.stored_ns)) for each in messages
    )


def observed(events: Iterable[tuple[int, StoredEvent | Unreadable]]) -> tuple[list[Violation], Legality]:
    """The same of events that were read, each with its sequence."""
    state, past = State(), dict[str, Run]()
    invariants, legality = Invariants(), Legality()
    for seq, stored in events:
        legality.message(seq)
        if isinstance(stored, StoredEvent):
            needed = ended_runs_needed(state, stored)
            change = evolve(state, stored, {run_id: past[run_id] for run_id in needed if run_id in past})
            past.update({each.after.run_id: each.after for each in change.runs})
            invariants.observe(stored, change)
            legality.observe(stored, change)
    return invariants.at_the_end() + legality.violations, legality


def messages_of(path: Path) -> list[Message]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [Message(line["seq"], line["stored_ns"], line["subject"], line["body"].encode()) for line in lines]


def stack(nodes: tuple[str, ...] = ("gpu01", "gpu02")) -> LogMaker:
    made = LogMaker()
    made.elect()
    for node in nodes:
        made.join(node)
    return made


@pytest.mark.parametrize("path", FROM_STACKS, ids=lambda path: path.stem)
def test_what_a_stack_wrote_is_clean(path: Path) -> None:
    violations, legality = audited(messages_of(path))
    assert violations == []
    assert legality.unreadable == 0


def test_of_a_log_that_was_made_up_for_the_fold_only_what_no_agent_says_is_told() -> None:
    violations, legality = audited(messages_of(FOLDER / "unseen-start.jsonl"))
    assert [(each.invariant, each.seq) for each in violations] == [("I9", 12), ("I9", 33)]
    assert all("its agent had told an end before" in each.message for each in violations)
    assert legality.late == 2


@pytest.mark.parametrize("seed", range(4))
def test_what_a_dispatcher_decides_whose_fold_lags_is_clean(seed: int) -> None:
    """But for the ids of these runs, which are short."""
    violations, _ = observed((one.seq, one) for one in a_log(seed))
    assert [each for each in violations if "its config makes it" not in each.message] == []


def test_what_the_protocol_allows_is_no_finding() -> None:
    """A late end after the operator's word, a cancel of what waits, a verdict that came second, artifacts, words twice."""
    made = stack()
    lost, waiting, done = made.submit(), made.submit(), made.submit()
    made.dispatch(lost, node="gpu02")
    made.start(lost, node="gpu02")
    made.by_dispatcher(NodeLost(node="gpu02", incarnation="gpu02-a", epoch=made.epoch, silent_s=15.0))
    made.by_gateway(NodeRemoved(node="gpu02", incarnation="gpu02-a"))
    made.complete(lost, node="gpu02")
    made.by_gateway(CancelRequested(run_id=waiting))
    made.by_dispatcher(Cancelled(run_id=waiting, attempt=1, epoch=made.epoch))
    made.dispatch(done)
    made.complete(done)
    made.by_agent(ArtifactsHashed(run_id=done, attempt=1), "gpu01")
    verdict = Failed(run_id=done, attempt=1, epoch=made.epoch, failure_reason=FailureReason.SHIM_LOST)
    first = made.by_dispatcher(verdict)
    made.by_dispatcher(verdict)
    started = made.start(done)
    made.raw("trainshed.events.run.x.agent.exploded.gpu01", b"{}")
    violations, legality = audited(made.messages)
    assert violations == []
    assert (legality.late, legality.unreadable) == (1, 1)
    assert legality.not_counted == (NotCounted("failed", 2, first), NotCounted("started", 1, started))


def test_what_a_deposed_dispatcher_granted_may_have_been_begun() -> None:
    """Servers refuse such a grant; where one is stored its node may have acted on it, so its word has its ground."""
    made = stack()
    run_id = made.submit()
    made.elect("dispatcher-2")
    granted = made.dispatch(run_id, epoch=1)
    made.start(run_id)
    made.complete(run_id)
    violations, legality = audited(made.messages)
    assert violations == []
    assert legality.late == 1
    assert NotCounted("dispatched", 1, granted) in legality.not_counted


def test_a_grant_of_a_held_slot_is_told_although_it_does_not_count() -> None:
    made = stack()
    holder, other = made.submit(), made.submit()
    made.dispatch(holder)
    at = made.dispatch(other, attempt=2)
    made.dispatch(holder)
    made.dispatch(other, attempt=2, slots=(1,))
    [violation], legality = audited(made.messages)
    assert (violation.invariant, violation.seq) == ("I2", at)
    assert violation.message == (
        f"slot gpu01.0 was granted to run {other} attempt 2, which does not count, while run {holder} attempt 1 held it"
    )
    assert legality.not_counted == (NotCounted("dispatched", 3, at),)


Word = Callable[[LogMaker, str], int]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (
            lambda made, run: made.start(run, node="gpu02"),
            "started from gpu02 on run {} attempt 1: it was granted to gpu01",
        ),
        (
            lambda made, run: made.complete(run, 2),
            "completed from gpu01 on run {} attempt 2: it was never granted",
        ),
        (
            lambda made, run: made.by_agent(ArtifactsHashed(run_id=run, attempt=1), "gpu02"),
            "artifacts_hashed from gpu02 on run {} attempt 1: it was granted to gpu01",
        ),
        (
            lambda made, run: made.by_agent(Cancelled(run_id=run, attempt=2), "gpu01"),
            "cancelled from gpu01 on run {} attempt 2: it was never granted",
        ),
        (
            lambda made, run: made.by_dispatcher(
                Failed(run_id=run, attempt=2, epoch=made.epoch, failure_reason=FailureReason.SHIM_LOST)
            ),
            "failed from the dispatcher on run {} attempt 2: it was never granted",
        ),
    ],
    ids=("started", "completed", "artifacts_hashed", "cancelled", "verdict"),
)
def test_a_word_on_what_was_not_granted_there_is_told(word: Word, told: str) -> None:
    made = stack()
    run_id = made.submit()
    made.dispatch(run_id)
    at = word(made, run_id)
    assert audited(made.messages)[0] == [Violation("I9", at, told.format(run_id))]


def test_an_end_before_its_grant_is_told() -> None:
    made = stack()
    run_id = made.submit()
    at = made.complete(run_id)
    made.dispatch(run_id)
    [violation], legality = audited(made.messages)
    assert (violation.invariant, violation.seq, legality.late) == ("I9", at, 1)


def test_two_ends_of_one_attempt_that_both_count_are_told() -> None:
    """Today's fold lets none through: so a fold that did is played."""
    made = stack()
    run_id = made.submit()
    made.dispatch(run_id)
    made.complete(run_id)
    state, legality, ended = State(), Legality(), list[EndedAttempt]()
    for message in made.messages:
        stored = decode(message.subject, message.body, message.seq, message.stored_ns)
        assert isinstance(stored, StoredEvent)
        change = evolve(state, stored)
        legality.message(message.seq)
        legality.observe(stored, change)
        ended += change.ended
    legality.message(made.seq + 1)
    again = decode(message.subject, message.body, made.seq + 1, message.stored_ns)
    assert isinstance(again, StoredEvent)
    legality.observe(again, Change(ended=tuple(ended)))
    told = f"run {run_id} attempt 1 ended twice, and both ends counted"
    assert Violation("I9", made.seq + 1, told) in legality.violations


def test_a_second_end_from_one_agent_is_told_and_one_from_another_node_is_not() -> None:
    """An agent's end is guarded by its own words (rule 13), whatever it says: only somebody else's hand tells a second."""
    made = stack()
    run_id = made.submit()
    made.dispatch(run_id, node="gpu02")
    made.dispatch(run_id)  # does not count, and its node cannot know
    made.complete(run_id, node="gpu02")
    made.complete(run_id)
    assert audited(made.messages)[0] == []
    failed = Failed(run_id=run_id, attempt=1, failure_reason=FailureReason.EXIT_CODE, exit_code=1)
    at = made.by_agent(failed, "gpu02")
    told = f"failed from gpu02 on run {run_id} attempt 1: its agent had told an end before"
    violations, legality = audited(made.messages)
    assert violations == [Violation("I9", at, told)]
    assert legality.late == 2


def test_an_agent_that_lost_its_folders_may_tell_an_end_again_once_it_told_a_later_one() -> None:
    """As the model's search found it: it looks for its last words alone before it speaks."""
    made = stack()
    run_id = made.submit()
    failed = Failed(run_id=run_id, attempt=1, failure_reason=FailureReason.NOT_STARTED)
    made.dispatch(run_id)
    made.by_agent(failed, "gpu01")
    made.dispatch(run_id, 2)
    made.by_agent(msgspec.structs.replace(failed, attempt=2), "gpu01")
    made.by_agent(failed, "gpu01")
    assert audited(made.messages)[0] == []
    made.by_agent(msgspec.structs.replace(failed, attempt=2), "gpu01")
    assert audited(made.messages)[0] == [], "the earlier one, told anew, has hidden the later one in its turn"
    at = made.by_agent(msgspec.structs.replace(failed, attempt=2), "gpu01")
    assert [(each.invariant, each.seq) for each in audited(made.messages)[0]] == [("I9", at)]


@pytest.mark.parametrize(
    ("gone", "seq", "told"),
    [
        ({1}, 1, "the log has no sequence 1: what was stored there is gone"),
        ({4}, 4, "the log has no sequence 4: what was stored there is gone"),
        ({3, 4, 5}, 3, "the log has no sequence 3 to 5: what was stored there is gone"),
    ],
)
def test_a_gap_in_the_sequence_is_told(gone: set[int], seq: int, told: str) -> None:
    made = stack(nodes=("gpu01", "gpu02", "gpu03", "gpu04", "gpu05"))
    assert audited(made.messages)[0] == []
    left = [message for message in made.messages if message.seq not in gone]
    assert audited(left)[0] == [Violation("I9", seq, told)]


def test_a_gap_at_the_end_is_told_when_the_end_is_known() -> None:
    legality = Legality()
    for message in stack().messages[:-1]:
        legality.message(message.seq)
    legality.close(2)
    assert legality.violations == []
    legality.close(3)
    told = "the log has no sequence 3: what was stored there is gone"
    assert legality.violations == [Violation("I9", 3, told)]


def submitted(**altered: object) -> tuple[list[Violation], str]:
    """What is told of a submission of which something was altered, and its run."""
    made = LogMaker()
    run_id = made.submit({"entry_point": "/bin/true", "labels": {"é": "1"}})
    stored = decode(made.messages[0].subject, made.messages[0].body, 1, 1)
    assert isinstance(stored, StoredEvent) and isinstance(stored.event, Submitted)
    changed = LogMaker()
    changed.by_gateway(msgspec.structs.replace(stored.event, **altered))
    return audited(changed.messages)[0], run_id


def test_a_run_bears_the_id_and_the_digest_of_its_config() -> None:
    assert submitted()[0] == []
    [wrong], run_id = submitted(digest="0" * 64)
    assert wrong.message.startswith(f"run {run_id}: digest is '{'0' * 64}', its config makes it '")
    [wrong], run_id = submitted(run_id="another")
    assert wrong.message == f"run another: run_id is 'another', its config makes it '{run_id}'"
    both, _ = submitted(config=msgspec.Raw(b'{"entry_point":"/bin/false"}'))
    assert [(one.invariant, one.seq) for one in both] == [("I9", 1), ("I9", 1)]
    [wrong], run_id = submitted(config=msgspec.Raw(b'{"entry_point":"/bin/true","newer":9007199254740993}'))
    assert wrong.message.startswith(f"run {run_id}: its config has no digest: ")


def test_a_hundred_are_named_at_most() -> None:
    made = stack()
    run_id = made.submit()
    for _ in range(MAX_VIOLATIONS + 5):
        made.start(run_id)
    assert len(audited(made.messages)[0]) == MAX_VIOLATIONS


def test_every_acceptance_is_shown_and_counts_as_nothing_else() -> None:
    story, events = Story(), list[tuple[int, StoredEvent | Unreadable]]()
    story.elect()
    for reason in ("restored", "restored again"):
        story.put(Role.GATEWAY, LogAccepted(reason=reason, accepted_by="ann"))
    events += ((one.seq, one) for one in story.log)
    violations, legality = observed(events)
    assert (violations, legality.not_counted) == ([], ())
    assert [(one.seq, one.reason, one.by) for one in legality.accepted] == [
        (2, "restored", "ann"),
        (3, "restored again", "ann"),
    ]
