"""What was recorded, decided again grant by grant, and what would have come of it on other nodes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from bench.log_maker import LogMaker
from events.codec import StoredEvent, Writer, decode, uuid7
from events.config import Needs
from events.rules import KNOWN
from events.types import Completed, Dispatched, Elected, NodeJoined, Submitted
from services.cli.event_lines import with_place
from services.cli.how_far import MANY
from services.cli.main import run
from services.dispatcher.decided_again import DecidedAgain
from services.dispatcher.decisions import Decisions
from services.scheduling import scheduler
from services.scheduling.offers import Offer
from services.scheduling.scheduler import SCHEDULER
from services.simulation.nodes import nodes_of_shape
from services.simulation.recorded import Recording
from services.simulation.what_if import Policy, WhatIf, of_log
from tests.support.builders import START_NS, Story, needs
from trainshed_client.statuses import FailureReason
from trainshed_client.subjects import Role


class Stack:
    """A dispatcher whose fold lags behind the log that it writes, among runs that come and end."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.log, self.own = Story(), Story()
        self.log.at_s = 0.0
        self.decisions = Decisions()
        self.submitted = 0
        self.elect()
        self.log.join("n0", slots=2, cpus=6)
        self.log.join("n1", slots=4, cpus=6)
        self.fold(3)

    def elect(self) -> None:
        """Another dispatcher folds up to its own election, and decides nothing before."""
        self.epoch = self.log.put(Role.DISPATCHER, elected())
        self.fold(len(self.log.log))
        self.decisions = Decisions()
        self.decisions.rebuild(self.own.state)

    def fold(self, count: int) -> None:
        """The dispatcher reads so many events more."""
        for stored in self.log.log[self.own.seq : self.own.seq + count]:
            change = self.own.fold(stored)
            self.own.seq = stored.seq
            self.decisions.note(self.own.state, stored, change)

    def step(self) -> None:
        """Something happens."""
        assert self.log.at_s is not None
        self.log.at_s += self.random.choice([0.0, 0.5, 3.0])
        live = [one for one in self.log.state.runs.values() if one.status == "RUNNING"]
        granted = [one for one in self.log.state.runs.values() if one.status == "DISPATCHING"]
        over = [one for one in self.log.past.values() if one.run_id not in self.log.state.runs]
        match self.random.randrange(24):
            case 0 | 1 | 2 | 3 | 4 | 5 | 6:
                self.submitted += 1
                asked = self.random.choice([0, 1, 1, 2, 4])
                limit = {"max_duration_seconds": 20} if self.random.random() < 0.5 else {}
                after = [self.random.choice(over).run_id] if over and self.random.random() < 0.2 else []
                self.log.submit(
                    f"r{self.submitted}",
                    resources=needs(asked),
                    priority=self.random.randrange(2),
                    schedule=limit,
                    retry={"max_attempts": 2, "backoff_s": 1.5},
                    after=after,
                )
            case 7 | 8 | 9 if granted:
                one = self.random.choice(granted)
                self.log.start(one.run_id, one.attempt, node=one.phase.nodes[0])  # type: ignore[union-attr]
            case 10 | 11 | 12 | 13 if live:
                one = self.random.choice(live)
                end = self.random.choice([self.log.complete, self.log.fail])
                end(one.run_id, one.attempt, node=one.phase.nodes[0])  # type: ignore[union-attr]
            case 14 | 15 | 16 | 17:
                self.fold(self.random.randrange(6))
            case 18 if over:
                one = self.random.choice(over)
                self.log.retry(one.run_id, one.attempt)
            case 19 if self.log.state.runs:
                self.log.cancel(self.random.choice([*self.log.state.runs]))
            case 20 if self.random.random() < 0.3:
                self.elect()
            case _:
                self.decide()

    def decide(self) -> None:
        """Each decision rests on what is folded, and on what is in flight."""
        assert self.log.at_s is not None
        now_ns = START_NS + int(self.log.at_s * 1e9)
        for event in self.decisions.decide(self.own.state, self.own.seq, self.epoch, now_ns, {}):
            decision = self.decisions.in_flight.add(event)
            decision.seq = self.log.by_dispatcher(event)


def elected() -> Elected:
    return Elected(name="box/1", scheduler=SCHEDULER, rules=KNOWN)


def a_log(seed: int) -> list[StoredEvent]:
    stack = Stack(seed)
    for _ in range(300):
        stack.step()
    return stack.log.log


def recording_of(log: Iterable[StoredEvent]) -> Recording:
    recording = Recording()
    for stored in log:
        recording.take(stored)
    recording.close()
    return recording


@pytest.mark.parametrize("seed", range(12))
def test_nothing_changed_gives_the_recorded_grants_one_by_one(seed: int) -> None:
    log = a_log(seed)
    grants = sum(isinstance(one.event, Dispatched) for one in log)
    again = recording_of(log).again
    assert again == DecidedAgain(same=grants)
    assert grants > 15


def test_a_fault_of_the_scheduler_shows_in_the_grants_that_are_decided_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = a_log(0)

    def loosest(needs: Needs, longest: float | None, offers: Iterable[Offer], now_ns: int) -> Offer | None:
        fitting = [o for o in offers if o.gpus_free(needs) >= needs.gpus and o.cpus >= needs.cpus]
        return max(fitting, key=lambda o: len(o.free), default=None)

    monkeypatch.setattr(scheduler, "choose", loosest)
    again = recording_of(log).again
    assert again.different
    assert log[again.differences[0].seq - 1].event == again.differences[0].recorded


def test_grants_of_another_scheduler_are_counted_and_not_checked() -> None:
    log = a_log(1)
    other = msgspec.structs.replace(elected(), scheduler=msgspec.structs.replace(SCHEDULER, version=1))
    log = [
        msgspec.structs.replace(one, event=other) if isinstance(one.event, Elected) else one for one in log
    ]
    again = recording_of(log).again
    assert again.unchecked and not again.same and not again.different


def what_if(story: Story, nodes: str | None, policy: Policy = Policy.DEFAULT) -> WhatIf:
    return of_log(recording_of(story.log), None if nodes is None else nodes_of_shape(nodes), policy)


@pytest.fixture
def story() -> Iterator[Story]:
    """On one node with one slot: two runs of 10 s one after the other, a third that never begins."""
    told = Story()
    told.at_s = 0.0
    told.put(Role.DISPATCHER, elected())
    told.join(slots=1)
    for run_id in ("a", "b", "c"):
        told.submit(run_id, run_name=run_id, resources=needs(1), priority=int(run_id == "b"))
    told.dispatch("a", slots=(0,))
    told.at_s = 10.0
    told.start("a")
    told.complete("a")
    told.dispatch("b", slots=(0,))
    told.at_s = 20.0
    told.fail("b", reason=FailureReason.SIGNAL)
    yield told


def test_with_two_slots_both_begin_at_once_and_what_nobody_knows_is_left_out(story: Story) -> None:
    found = what_if(story, "1x2")
    assert (found.figures.makespan_s, found.figures.max_wait_s) == (10.0, 0.0)
    assert (found.unknown, found.waiting, found.unplaceable) == (1, 0, 0)
    assert found.happened is not None
    assert set(found.happened.jobs) == {"a", "b", "c"}


def test_on_its_own_node_fifo_takes_the_first_submitted(story: Story) -> None:
    jobs = what_if(story, None, Policy.FIFO).simulated.jobs
    begins = {name: (job.spans[0].begin_ns - START_NS) / 1e9 for name, job in jobs.items()}
    assert begins == {"a": 0.0, "b": 10.0}


def test_a_node_that_is_too_small_makes_a_run_unplaceable(story: Story) -> None:
    assert what_if(story, "3x0").figures.unplaceable == 2


def test_killed_and_running_runs_are_censored() -> None:
    told = Story()
    told.at_s = 0.0
    told.put(Role.DISPATCHER, elected())
    told.join(slots=4)
    for place, run_id in enumerate(("completed", "failed", "cancelled", "overdue", "running")):
        told.submit(run_id, resources=needs(0))
        told.dispatch(run_id)
        told.start(run_id)
        told.at_s = float(place + 1)
    told.complete("completed")
    told.fail("failed")
    told.cancel("cancelled")
    told.stopped("cancelled")
    told.time_out("overdue")
    told.at_s = 60.0
    told.drain()
    found = what_if(told, "1x0")
    assert (found.censored, found.unknown, found.waiting) == (3, 0, 0)
    lasted = {name: job.spans[0].seconds(0) for name, job in found.simulated.jobs.items()}
    assert lasted["running"] == 56.0


def test_attempts_and_retries_are_had_again() -> None:
    told = Story()
    told.at_s = 0.0
    told.put(Role.DISPATCHER, elected())
    told.join(slots=1)
    told.submit("a", resources=needs(1), retry={"max_attempts": 2, "backoff_s": 1})
    for attempt in (1, 2, 3):
        told.dispatch("a", attempt, slots=(0,))
        told.start("a", attempt)
        told.at_s += 5.0
        (told.complete if attempt == 3 else told.fail)("a", attempt)
        told.at_s += 1.0
        if attempt == 2:
            told.retry("a", 2)
    (job,) = what_if(told, "2x1").simulated.jobs.values()
    assert [(span.attempt, span.seconds(0)) for span in job.spans] == [(1, 5.0), (2, 5.0), (3, 5.0)]
    assert [(span.begin_ns - START_NS) / 1e9 for span in job.spans] == [0.0, 6.0, 12.0]


def lines_of(log: Iterable[StoredEvent]) -> Iterator[bytes]:
    """As `trainshed events` prints them."""
    for stored in log:
        node = stored.subject.node if stored.subject.role == Role.AGENT else None
        clock = itertools.repeat(stored.stored_ns).__next__
        body = Writer(Role(stored.subject.role), clock, uuid7, node).new(stored.event).body
        yield msgspec.json.encode({**msgspec.json.decode(body), "sequence": f"{stored.seq:020}"}) + b"\n"


def test_a_log_in_a_file_is_decided_again_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, picture = tmp_path / "events.jsonl", tmp_path / "gantt.svg"
    log.write_bytes(b"".join(lines_of(a_log(3))))
    assert run(["simulate", "--log", str(log), "--gantt", str(picture)]) == 0
    grants = sum(isinstance(one.event, Dispatched) for one in a_log(3))
    said = capsys.readouterr()
    assert f"of {grants:,} grants decided again {grants:,} came out as recorded" in said.err
    assert "HAPPENED" in said.out
    assert (
        len(ElementTree.parse(picture).getroot().findall(".//{http://www.w3.org/2000/svg}title"))
        >= grants // 3
    )
    assert run(["simulate", "--log", str(log), "--nodes", "2x8", "--policy", "fifo", "--json"]) == 0
    assert '"v":1' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"{}\n", [], ":1: no event"),
        (b"", [], "has no run that ever began"),
        (b"", ["--map", "gpus=n"], "--map: is of a trace"),
        (b"", ["--nodes", "nowhere"], "--nodes: 'nowhere' is neither"),
        (b"", ["--trace", "x.csv"], "--log: and --trace are two sources"),
    ],
)
def test_what_is_no_log_is_refused(
    content: bytes, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "events.jsonl"
    log.write_bytes(content)
    assert run(["simulate", "--log", str(log), *options]) == 2
    assert message in capsys.readouterr().err


def test_of_an_attempts_end_a_recording_keeps_how_it_ended_once_for_all_that_ended_so() -> None:
    """And of a log in which nothing is to be changed nothing that happened from outside."""
    log = LogMaker()
    log.elect()
    log.join()
    runs = [log.submit() for _ in range(2)]
    for place, run_id in enumerate(runs):
        log.dispatch(run_id, slots=(place,))
        log.complete(run_id)
    recording, unchanged = Recording(), Recording(changed=False)
    for message in log.messages:
        stored = decode(message.subject, message.body, message.seq, message.stored_ns)
        recording.take(stored)
        unchanged.take(stored)
    recording.close()
    unchanged.close()
    first, second = (
        (span.end, span.slots) for job in recording.timetable.jobs.values() for span in job.spans
    )
    assert first[0] == Completed(run_id="", attempt=0) and first[0] is second[0]
    assert [type(one.event) for one in recording.given] == [NodeJoined, Submitted, Submitted]
    assert unchanged.given == [] and unchanged.timetable.jobs == recording.timetable.jobs


def test_a_long_file_shows_how_far_it_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogMaker()
    log.elect()
    log.join()
    log.dispatch(log.submit({"entry_point": "/bin/true", "arguments": ["x" * MANY]}))
    lines = [with_place(message) for message in log.messages]
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines if line is not None))
    monkeypatch.setattr("services.cli.simulate.SHOWN_EVERY", 2)
    monkeypatch.setattr("services.cli.simulate.USUAL_BYTES", 1)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    run(["simulate", "--log", str(path), "--json"])
    printed = capsys.readouterr()
    assert printed.out.startswith('{"v":') and "reading" in printed.err and "100%" in printed.err
