"""The simulation of a trace: against a simple one that shares nothing with it, and with the dispatcher."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.config import Needs
from events.types import Dispatched, NodeJoined
from services.cli.main import run
from services.dispatcher.decisions import Decisions
from services.scheduling import scheduler
from services.scheduling.offers import Offer
from services.simulation.csv_table import read_table
from services.simulation.figures import figures_of
from services.simulation.nodes import EmptyNodes, nodes_of_shape, nodes_of_table
from services.simulation.trace import Task, openb_tasks, parse_mapping, tasks_of
from services.simulation.what_if import Policy, of_trace
from services.simulation.world import simulate
from tests.support.builders import Story, needs

TRACES = Path(__file__).resolve().parents[3] / "shared" / "traces"
PODS, MACHINES = TRACES / "openb_pod_list_default.csv", TRACES / "openb_node_list_gpu_node.csv"


class Machine(NamedTuple):
    """A node of the simple simulation: its name, and all that it has."""

    name: str
    gpus: int
    cpus: int
    memory_mb: int


def first_in_first_out(tasks: Sequence[Task], machines: Sequence[Machine]) -> list[float]:
    """When each task begins: strictly in the order of submission, each where the fewest GPUs are left free."""
    free = {machine.name: [machine.gpus, machine.cpus, machine.memory_mb] for machine in machines}
    whole = {machine.name: machine.gpus for machine in machines}
    running: list[tuple[float, str, Task]] = []
    begins = [0.0] * len(tasks)
    now = 0.0
    for place in sorted(range(len(tasks)), key=lambda place: tasks[place].submit_s):
        task = tasks[place]
        wanted = (task.gpus, task.cpus, task.memory_mb)
        now = max(now, task.submit_s)
        while True:
            for ended in [one for one in running if one[0] <= now]:
                running.remove(ended)
                _, name, of = ended
                for index, amount in enumerate((of.gpus, of.cpus, of.memory_mb)):
                    free[name][index] += amount
            fitting = [
                name
                for name, left in free.items()
                if all(have >= want for have, want in zip(left, wanted, strict=True))
            ]
            if fitting:
                break
            now = min(one[0] for one in running)
        if task.gpus:
            name = min(fitting, key=lambda name: (free[name][0], free[name][1], name))
        else:
            name = min(fitting, key=lambda name: (whole[name], -free[name][1], name))
        for index, amount in enumerate(wanted):
            free[name][index] -= amount
        running.append((now + task.duration_s, name, task))
        begins[place] = now
    return begins


def machines_of(nodes: Iterable[NodeJoined]) -> list[Machine]:
    return [Machine(node.node, len(node.gpus), node.cpus, node.memory_mb) for node in nodes]


def begins_of(
    tasks: Sequence[Task], nodes: Sequence[NodeJoined], policy: Policy = Policy.FIFO
) -> list[float]:
    jobs = of_trace(tasks, nodes, policy).simulated.jobs.values()
    return [job.spans[0].begin_ns / 1e9 for job in jobs]


def shaped(text: str) -> list[NodeJoined]:
    nodes = nodes_of_shape(text)
    assert nodes is not None
    return nodes


TASKS = st.lists(
    st.builds(
        Task,
        name=st.just("t"),
        submit_s=st.integers(0, 40).map(float),
        duration_s=st.integers(1, 30).map(float),
        gpus=st.integers(0, 4),
        cpus=st.integers(0, 4),
        memory_mb=st.integers(0, 3),
        priority=st.integers(-1, 1),
        censored=st.just(False),
        began_s=st.none(),
    ),
    min_size=1,
    max_size=40,
)
NODES = read_table(
    ["name,gpus,cpus,memory_mb\n", "a,4,6,3\n", "b,4,8,5\n", "c,2,4,9\n", "d,0,4,3\n"], "nodes.csv"
)


@settings(max_examples=100, deadline=None)
@given(tasks=TASKS)
def test_fifo_begins_each_job_when_the_simple_simulation_does(tasks: list[Task]) -> None:
    nodes = nodes_of_table(NODES)
    ordered = sorted(tasks, key=lambda task: task.submit_s)
    empty = EmptyNodes(nodes)
    ordered = [one for one in ordered if empty.could_hold(Needs(one.cpus, one.memory_mb, one.gpus, True))]
    assert begins_of(ordered, nodes) == first_in_first_out(ordered, machines_of(nodes))


@pytest.mark.skipif(not PODS.exists(), reason=f"the public trace is not at {TRACES}")
@pytest.mark.parametrize("nodes", ["all", "6x8"])
def test_fifo_agrees_on_the_public_trace_to_the_second(nodes: str) -> None:
    with PODS.open() as lines:
        tasks = openb_tasks(read_table(lines, "pods"))
    assert len(tasks) == 8_152
    there = shaped(nodes) if nodes != "all" else nodes_of_table(read_table(MACHINES.open(), "nodes"))
    if nodes == "all":
        assert (len(there), sum(len(node.gpus) for node in there)) == (1_213, 6_212)
    assert begins_of(tasks, there) == first_in_first_out(tasks, machines_of(there))


@settings(max_examples=100, deadline=None)
@given(tasks=TASKS)
def test_the_offers_that_a_simulation_keeps_make_no_difference(tasks: list[Task]) -> None:
    nodes = nodes_of_table(NODES)
    kept = of_trace(tasks, nodes, Policy.DEFAULT).simulated
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.scheduling.kept_offers.KeptOffers.at", lambda *_: None)
        looked_at = of_trace(tasks, nodes, Policy.DEFAULT).simulated
    assert kept.jobs == looked_at.jobs


def test_a_fault_of_the_scheduler_moves_simulation_and_dispatcher_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One GPU is asked for, of a node with two and of one with one: the latter is the tightest."""
    nodes = nodes_of_table(read_table(["name,gpus\n", "large,2\n", "small,1\n"], "nodes.csv"))
    tasks = [Task("only", 0.0, 5.0, 1)]

    def simulated() -> str:
        (job,) = of_trace(tasks, nodes, Policy.DEFAULT).simulated.jobs.values()
        return job.spans[0].node

    def dispatched() -> str:
        story, decisions = Story(), Decisions()
        epoch = story.elect()
        story.join("large", slots=2)
        story.join("small", slots=1)
        story.submit("only", resources=needs(1))
        decisions.rebuild(story.state)
        (grant,) = decisions.decide(story.state, story.seq, epoch, 0, {})
        assert isinstance(grant, Dispatched)
        return grant.node

    assert simulated() == dispatched() == "small"

    def loosest(needs: Needs, longest: float | None, offers: Iterable[Offer], now_ns: int) -> Offer | None:
        return max(offers, key=lambda o: len(o.free), default=None)

    monkeypatch.setattr(scheduler, "choose", loosest)
    monkeypatch.setattr("services.scheduling.kept_offers.KeptOffers.at", lambda *_: None)
    assert simulated() == dispatched() == "large"


def test_the_default_lets_who_fits_pass_and_fifo_does_not() -> None:
    tasks = [Task("a", 0, 10, 2), Task("b", 1, 10, 4), Task("c", 2, 10, 1, priority=1)]
    assert begins_of(tasks, shaped("1x4"), Policy.FIFO) == [0, 10, 20]
    assert begins_of(tasks, shaped("1x4"), Policy.DEFAULT) == [0, 12, 2]


def test_the_figures_of_three_jobs_one_after_the_other() -> None:
    tasks = [Task(name, 0.0, 10.0, 2) for name in "abc"] + [Task("large", 0.0, 10.0, 3)]
    found = of_trace(tasks, shaped("1x2"), Policy.FIFO)
    figures = found.figures
    assert (figures.jobs, figures.unplaceable, figures.makespan_s) == (4, 1, 30.0)
    assert (figures.mean_wait_s, figures.p95_wait_s, figures.max_wait_s) == (10.0, 20.0, 20.0)
    assert (figures.mean_slowdown, figures.gpu_utilisation) == (2.0, 1.0)
    assert figures_of(simulate([], {})).makespan_s is None


def test_a_column_is_renamed_and_a_difference_of_two_is_taken() -> None:
    lines = ["queued,end-time,begin-time,n\n", "5,40,30.5,2\n"]
    mapping = parse_mapping(["submit_s=queued", "duration_s=end-time-begin-time", "gpus=n"])
    assert tasks_of(read_table(lines, "t"), mapping) == [Task("line 2", 5.0, 9.5, 2)]


REFUSED = [
    (["submit_s,duration_s\n", "0,1\n"], [], "gpus: the column is missing"),
    (
        ["submit_s,duration_s,gpus\n", "0,-1,1\n"],
        [],
        ":2: duration_s: -1 is refused; expected a number from 0",
    ),
    (["submit_s,duration_s,gpus\n", "0,1,1.5\n"], [], ":2: gpus: 1.5 is refused; expected a whole number"),
    (["submit_s,duration_s,gpus\n", "0,nan,1\n"], [], ":2: duration_s: 'nan' is no number"),
    (["submit_s,duration_s,gpus\n", "0,1\n"], [], ":2: 2 values; expected 3"),
    (["submit_s,duration_s,gpus\n"], [], "has no jobs"),
    ([], [], "is empty; expected a header line"),
    (["a,a\n"], [], "a: the column is there twice"),
    (["submit_s,b,e,gpus\n", "0,5,3,1\n"], ["--map", "duration_s=e-b"], "duration_s: 3 - 5 = -2 is refused"),
    (["submit_s,duration_s,gpus\n", "0,1,1\n"], ["--map", "gpus=n-m"], "--map gpus: 'n-m' is no column"),
    (["submit_s,duration_s,gpus\n", "0,1,1\n"], ["--map", "speed=n"], "--map: 'speed=n' is refused"),
    (
        ["submit_s,duration_s,gpus\n", "0,1,1\n"],
        ["--policy", "lifo"],
        "'lifo' is not one of 'default', 'fifo'",
    ),
    (["submit_s,duration_s,gpus\n", "0,1,1\n"], ["--nodes", "0x8"], "--nodes: '0x8' is neither"),
    (["submit_s,duration_s,gpus\n", "0,1,1\n"], ["--nodes", "1x9999"], "--nodes: 1x9999 is refused"),
    (["submit_s,duration_s,gpus\n", "0,1,1\n"], ["--format", "openb"], "cpu_milli: the column is missing"),
]


@pytest.mark.parametrize(("lines", "options", "message"), REFUSED, ids=[case[2] for case in REFUSED])
def test_what_cannot_be_is_refused_by_its_field(
    lines: list[str],
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if message.startswith("cpu_milli"):
        lines = ["name,submit_s\n", "a,0\n"]
    trace = tmp_path / "trace.csv"
    trace.write_text("".join(lines))
    words = ["simulate", "--trace", str(trace)] + ([] if "--nodes" in options else ["--nodes", "1x8"])
    assert run([*words, *options]) == 2
    assert message in capsys.readouterr().err


def test_the_answer_for_programs_has_the_keys_of_the_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"{random.Random(place).randrange(50)},{place},1" for place in range(30)]
    trace.write_text("\n".join(["submit_s,duration_s,gpus", *rows]))
    assert run(["simulate", "--trace", str(trace), "--nodes", "2x2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer) == [
        *("v", "jobs", "makespan_s", "mean_wait_s", "p95_wait_s", "max_wait_s"),
        *("mean_slowdown", "gpu_utilisation", "unplaceable"),
    ]
    assert (answer["v"], answer["jobs"], answer["unplaceable"]) == (1, 30, 0)
