"""The fault suite's own reading of the log: it agrees with a good log, and says what is wrong with a bad one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.ledger import Ledger
from tests.faults.report import bound


class Told:
    """A log told event by event to a ledger."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.seq = 0
        self.epoch = self.say("control.dispatch.dispatcher.elected._", name="d1")

    def say(self, tokens: str, **data: Any) -> int:
        self.seq += 1
        self.ledger.take(self.seq, f"trainshed.events.{tokens}", {"data": data})
        return self.seq

    def grant(self, run: str, attempt: int = 1, *, slot: int = 0, epoch: int | None = None) -> None:
        self.say(
            f"run.{run}.dispatcher.dispatched.a",
            run_id=run,
            attempt=attempt,
            epoch=self.epoch if epoch is None else epoch,
            node="a",
            incarnation="i",
            slots=[slot],
        )

    def end(self, run: str, attempt: int = 1, node: str = "a") -> None:
        self.say(f"run.{run}.agent.failed.{node}", run_id=run, attempt=attempt)

    @property
    def invariants(self) -> list[str]:
        return [each.invariant for each in self.ledger.violations]


def test_a_slot_is_granted_again_after_its_end() -> None:
    told = Told()
    told.grant("r1")
    told.end("r1")
    told.grant("r2")
    told.end("r2")
    told.grant("r1", 2)
    assert told.invariants == []
    assert set(told.ledger.live) == {("r1", 2)}


def test_a_slot_that_is_held_is_not_granted() -> None:
    told = Told()
    told.grant("r1")
    told.grant("r2")
    assert told.invariants == ["I2"]


@pytest.mark.parametrize("attempt", [1, 3])
def test_attempts_are_granted_in_turn(attempt: int) -> None:
    told = Told()
    told.grant("r1")
    told.end("r1")
    told.grant("r1", attempt)
    assert told.invariants == ["I3"]


def test_no_second_attempt_while_one_is_live() -> None:
    told = Told()
    told.grant("r1")
    told.grant("r1", 2, slot=1)
    assert told.invariants == ["I3"]


def test_silence_and_another_nodes_word_free_nothing() -> None:
    told = Told()
    told.grant("r1")
    told.say("node.a.dispatcher.node_lost.a", node="a", incarnation="i", epoch=told.epoch)
    told.end("r1", node="b")
    told.grant("r2")
    assert told.invariants == ["I2"]


def test_a_removed_node_frees_what_it_held() -> None:
    told = Told()
    told.grant("r1")
    told.say("node.a.gateway.node_removed.a", node="a", incarnation="another")
    assert told.ledger.live
    told.say("node.a.gateway.node_removed.a", node="a", incarnation="i")
    told.grant("r1", 2)
    assert told.invariants == []


def test_a_grant_of_an_epoch_that_is_over_counts_for_nothing() -> None:
    told = Told()
    before = told.epoch
    told.epoch = told.say("control.dispatch.dispatcher.elected._", name="d2")
    told.grant("r1", epoch=before)
    assert not told.ledger.live
    told.grant("r1")
    assert told.invariants == []


def test_a_queued_run_that_is_cancelled_uses_its_attempts_number_up() -> None:
    told = Told()
    told.say("run.r1.dispatcher.cancelled._", run_id="r1", attempt=1, epoch=told.epoch)
    told.grant("r1", 2)
    assert told.invariants == []


def test_the_rule_of_three() -> None:
    assert bound(300) == "< 1.00%"
    assert bound(3) == "-"
