"""A grant that somebody made up is told, whatever view it names, and the others are decided again as they were."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from events.state import State
from events.types import Dispatched, Submitted, View, Why
from services.cli.audit_decisions import DecisionsCheck
from services.dispatcher import decided_again
from services.dispatcher.decided_again import DecidedAgain, GrantsAgain
from services.dispatcher.decisions import Decisions
from tests.support.builders import LAUNCH, START_NS, Story, needs
from tests.unit.test_recorded_log import Stack, elected, recording_of
from trainshed_client.subjects import Role

NOW = "2027-01-01T00:00:00.000000Z"


class Forged(Stack):
    """A stack in which a run waits that fits no node."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.log.submit("waits", resources=needs(64))
        self.steps(150)

    def steps(self, count: int) -> None:
        """So many things happen, and all is folded in the end."""
        for _ in range(count):
            self.step()
        self.fold(len(self.log.log))

    def forge(self, view: int, *, now: str = NOW, epoch: int | None = None) -> int:
        """A grant of it, of nothing at all, with this view."""
        grant = Dispatched(
            run_id="waits",
            attempt=1,
            epoch=self.epoch if epoch is None else epoch,
            node="n0",
            incarnation="a",
            slots=(),
            cpus=0,
            memory_mb=0,
            launch=LAUNCH,
            view=View(seq=view, now=now),
            why=Why(free=0),
        )
        return self.log.by_dispatcher(grant)

    def last_view(self) -> int:
        """The latest that a grant of this epoch has."""
        grants = (one.event for one in self.log.log if isinstance(one.event, Dispatched))
        return max((grant.view.seq for grant in grants if grant.epoch == self.epoch), default=0)

    def again(self) -> DecidedAgain:
        """The whole log, decided again."""
        return recording_of(self.log.log).again


Forge = Callable[[Forged], int]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("forge", "otherwise"),
    [
        (lambda made: made.forge(made.log.seq), "; decided again from its view "),
        (lambda made: made.forge(made.log.seq + 1), "no dispatcher of its epoch had the view that it names"),
        (lambda made: made.forge(10**12), "no dispatcher of its epoch had the view that it names"),
        (lambda made: made.forge(made.epoch - 1), "no dispatcher of its epoch had the view that it names"),
        (lambda made: made.forge(made.log.seq, now="soon"), "no dispatcher of its epoch had the view that"),
        (lambda made: made.forge(made.log.seq, now="2027-01-01"), "no dispatcher of its epoch had the view"),
    ],
    ids=("made up", "its own", "the future", "before its election", "no time", "no zone"),
)
def test_a_grant_that_was_made_up_is_told_and_those_after_it_are_decided_as_they_were(
    forge: Forge, otherwise: str, seed: int
) -> None:
    made = Forged(seed)
    before = made.again()
    assert (before.different, before.unchecked) == (0, 0) and before.same
    at = forge(made)
    made.fold(len(made.log.log))
    made.steps(150)
    found = made.again()
    assert [one.seq for one in found.differences] == [at]
    assert otherwise in str(found.differences[0])
    assert str(found.differences[0]).startswith(
        "run waits attempt 1 was granted no slots, 0 CPUs and 0 MB of n0 (a); "
    )
    assert (found.different, found.unchecked) == (1, 0)
    assert found.same > before.same


def test_a_view_before_that_of_an_earlier_grant_is_told() -> None:
    made = Forged(0)
    while (view := made.last_view()) <= made.epoch:
        made.steps(20)
    at = made.forge(view - 1)
    [difference] = made.again().differences
    assert difference.seq == at
    assert "lies before that of a grant before it" in str(difference)


def test_a_view_that_knows_of_another_election_is_told() -> None:
    made = Forged(1)
    older = made.epoch
    made.elect()
    at = made.forge(made.log.seq, epoch=older)
    [difference] = made.again().differences
    assert difference.seq == at
    assert "another dispatcher was elected" in str(difference)


async def test_the_check_names_each_as_a_violation() -> None:
    told = Story()
    told.put(Role.DISPATCHER, elected())
    told.submit("waits")
    at = told.dispatch("waits")
    check = DecisionsCheck()
    for stored in told.log:
        check.take(stored, {})
    [violation] = await check.violations()
    assert (violation.invariant, violation.seq) == ("I11", at)
    assert check.result.different == 1


def test_what_lies_too_far_behind_is_not_checked_and_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decided_again, "MOST_BEHIND", 3)
    made = Forged(3)
    monkeypatch.setattr(decided_again, "MOST_BEHIND", 10_000)
    grants = made.again().same
    monkeypatch.setattr(decided_again, "MOST_BEHIND", 3)
    found = made.again()
    assert found.different == 0
    assert 0 < found.unchecked < grants
    assert found.same + found.unchecked == grants


def test_no_more_is_kept_than_may_lie_behind() -> None:
    told = Story()
    told.put(Role.DISPATCHER, elected())
    grants = GrantsAgain()
    for stored in told.log:
        grants.take(stored)
    for number in range(decided_again.MOST_BEHIND + 100):
        told.put(Role.GATEWAY, Submitted(run_id=f"r{number}", config=told_config(), digest=""))
        grants.take(told.log[-1])
    assert len(grants._behind) == decided_again.MOST_BEHIND


def told_config() -> msgspec.Raw:
    return msgspec.Raw(b'{"entry_point":"/bin/true"}')


def test_one_view_may_be_decided_by_twice_where_the_clock_stands_still() -> None:
    """A decision takes 200 at most; the next one has the same view where nothing was folded and the clock went back."""
    told = Story()
    told.at_s = 0.0
    epoch = told.put(Role.DISPATCHER, elected())
    told.join(slots=0, cpus=500)
    for number in range(300):
        told.submit(f"r{number}", resources=needs(0))
    decisions, view = Decisions(), told.seq
    decisions.rebuild(told.state)
    sizes = list[int]()
    story_state = recording_state(told)
    for _ in range(2):
        decided = decisions.decide(story_state, view, epoch, START_NS, {})
        sizes.append(len(decided))
        for event in decided:
            decisions.in_flight.add(event).seq = told.by_dispatcher(event)
    assert sizes == [200, 100]
    assert recording_of(told.log).again == DecidedAgain(same=300)


def recording_state(told: Story) -> State:
    """The state as it is now, while the story goes on."""
    other = Story()
    for stored in told.log:
        other.fold(stored)
    return other.state
