"""Gateway, dispatchers and agents playing on one log: invariants I1 and I2, and no node granted more than it has."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from events.state import Ended
from tests.support.builders import facts, needs, recomputed
from tests.support.cluster import MOST_SLOTS_PER_GPU, Cluster, Deciding
from trainshed_client.statuses import NodeStatus, RunStatus

NODES = ("n1", "n2")
names = st.sampled_from(NODES)
dispatchers = st.integers(0, 1)
many = st.none() | st.integers(0, 3)


class Playing(RuleBasedStateMachine):
    """Any order of what can happen; at the end everybody is back, and every run must end."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.runs: list[str] = []
        self.sound_cancels: set[str] = set()

    @initialize()
    def begin(self) -> None:
        self.cluster.add("n1", gpus=2, slots_per_gpu=2, cpus=3, memory_mb=100)
        self.cluster.add("n2", gpus=1, cpus=4, memory_mb=50)
        self.cluster.stand(self.cluster.dispatchers[0])

    # --- the gateway --------------------------------------------------------------------------------------------

    @rule(
        gpus=st.integers(0, 2),
        cpus=st.integers(1, 3),
        memory_mb=st.sampled_from([0, 0, 40]),
        mandatory=st.booleans(),
        whole=st.booleans(),
        priority=st.integers(-1, 1),
        tries=st.integers(1, 3),
        after=st.booleans(),
    )
    def submit(
        self,
        gpus: int,
        cpus: int,
        memory_mb: int,
        mandatory: bool,
        whole: bool,
        priority: int,
        tries: int,
        after: bool,
    ) -> None:
        run_id = f"r{len(self.runs)}"
        self.cluster.story.submit(
            run_id,
            resources=needs(gpus, cpus, memory_mb, mandatory=mandatory, whole=whole),
            priority=priority,
            retry={"max_attempts": tries, "backoff_s": 5},
            after=self.runs[-1:] if after else [],
        )
        self.runs.append(run_id)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.runs))
        self.cluster.story.cancel(run_id)
        if self.cluster.story.change.runs:
            self.sound_cancels.add(run_id)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.runs))
        phase = self.cluster.story.run(run_id).phase
        if isinstance(phase, Ended):
            self.cluster.story.retry(run_id, phase.attempt)
            self.sound_cancels.discard(run_id)

    @rule(name=names, again=st.booleans())
    def drain_or_resume(self, name: str, again: bool) -> None:
        node = self.cluster.story.state.nodes.get(name)
        if node is None:
            return
        (self.cluster.story.resume if again else self.cluster.story.drain)(name, node.incarnation)

    @rule(name=names)
    def remove(self, name: str) -> None:
        self.cluster.remove(name)

    # --- dispatchers ----------------------------------------------------------------------------------------------

    @rule(number=dispatchers, how_many=many)
    def fold(self, number: int, how_many: int | None) -> None:
        self.cluster.dispatchers[number].fold(self.cluster.story.log, how_many)

    @rule(number=dispatchers)
    def turn(self, number: int) -> None:
        self.cluster.turn(self.cluster.dispatchers[number])

    @rule(number=dispatchers)
    def fold_and_turn_twice(self, number: int) -> None:
        """The second decision is made before the first has been folded."""
        self.cluster.dispatchers[number].fold(self.cluster.story.log)
        self.cluster.turn(self.cluster.dispatchers[number])
        self.cluster.turn(self.cluster.dispatchers[number])

    @rule(number=dispatchers, gpus=st.lists(st.integers(0, 2), min_size=2, max_size=4))
    def a_busy_moment(self, number: int, gpus: list[int]) -> None:
        """Several submits, a decision and its delivery: else few steps have anything to go wrong with."""
        for wanted in gpus:
            self.submit(
                gpus=wanted,
                cpus=1,
                memory_mb=0,
                mandatory=True,
                whole=False,
                priority=0,
                tries=2,
                after=False,
            )
        self.fold_and_turn_twice(number=number)
        for name in NODES:
            self.cluster.take(name)

    @rule(number=dispatchers, after=st.integers(0, 2))
    def turn_without_an_answer(self, number: int, after: int) -> None:
        self.cluster.turn(self.cluster.dispatchers[number], acknowledged=after)

    @rule(number=dispatchers)
    def elect(self, number: int) -> None:
        self.cluster.stand(self.cluster.dispatchers[number])

    @rule(number=dispatchers)
    def a_new_process(self, number: int) -> None:
        """A dispatcher that starts over, its queue and debts built from a folded state."""
        old = self.cluster.dispatchers[number]
        new = Deciding(old.name)
        new.fold(self.cluster.story.log)
        rebuilt = Deciding(old.name)
        rebuilt.state, rebuilt.position, rebuilt.past = new.state, new.position, new.past
        rebuilt.decisions.rebuild(rebuilt.state)
        self.cluster.dispatchers[number] = rebuilt

    @rule(seconds=st.sampled_from([1.0, 5.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.cluster.now_s += seconds

    # --- agents -----------------------------------------------------------------------------------------------------

    @rule(name=names, how_many=many)
    def take(self, name: str, how_many: int | None) -> None:
        self.cluster.take(name, how_many)

    @precondition(lambda self: any(agent.workers for agent in self.cluster.agents.values()))
    @rule(data=st.data(), well=st.booleans())
    def end(self, data: st.DataObject, well: bool) -> None:
        workers = [(a.name, ref) for a in self.cluster.agents.values() if a.alive for ref in a.workers]
        if workers:
            name, ref = data.draw(st.sampled_from(workers))
            self.cluster.end(name, ref, well=well)

    @rule(name=names, slots_per_gpu=st.none() | st.integers(1, MOST_SLOTS_PER_GPU))
    def restart(self, name: str, slots_per_gpu: int | None) -> None:
        """Perhaps with its devices cut anew."""
        agent = self.cluster.agents[name]
        agent.slots_per_gpu = slots_per_gpu or agent.slots_per_gpu
        if agent.alive:
            self.cluster.join(name)

    @rule(name=names)
    def leave(self, name: str) -> None:
        self.cluster.leave(name)

    @rule(name=names)
    def come_back(self, name: str) -> None:
        if not self.cluster.agents[name].alive:
            self.cluster.join(name)

    @rule(name=names)
    def die(self, name: str) -> None:
        self.cluster.die(name)

    @rule(name=names)
    def another_machine_takes_the_name(self, name: str) -> None:
        """With the old one's leave without attempts; else its join is refused."""
        agent = self.cluster.agents[name]
        node = self.cluster.story.state.nodes.get(name)
        if (
            node is not None
            and not agent.alive
            and not agent.workers
            and node.status is NodeStatus.LEFT
            and not node.left_attempts
        ):
            agent.generation += 1
            self.cluster.join(name)

    @rule(name=names)
    def cut_off(self, name: str) -> None:
        self.cluster.agents[name].reachable = False

    @rule(name=names)
    def reconnect(self, name: str) -> None:
        self.cluster.agents[name].reachable = True

    # --- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_held_twice(self) -> None:
        self.cluster.check()

    @invariant()
    def the_index_is_what_the_runs_say(self) -> None:
        assert facts(self.cluster.story.state) == recomputed(self.cluster.story.state)

    def teardown(self) -> None:
        if not self.cluster.agents:
            return
        self.cluster.run_until_quiet()
        for run_id in self.runs:
            status = self.cluster.story.status(run_id)
            assert status.ended
            if run_id in self.sound_cancels:
                assert status is not RunStatus.FAILED, "a cancel was lost"


TestPlaying = Playing.TestCase
TestPlaying.settings = settings(max_examples=60, stateful_step_count=40)
