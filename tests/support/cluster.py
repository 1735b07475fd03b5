"""A whole cluster in memory: one log, dispatchers that fold it late, agents that act on what they are pushed.

The dispatchers' decisions and every fold are the project's own; the log's guards and the agents are played here.
"""

from __future__ import annotations

import msgspec

from events.codec import StoredEvent
from events.evolve import ended_runs_needed, evolve
from events.rules import KNOWN
from events.state import Active, Run, State
from events.types import AttemptRef, Dispatched, Elected, Event, NodeLost, SchedulerInfo, Started, Stopping
from services.dispatcher.decisions import BATCH_LIMIT, Decisions
from tests.support.builders import SECOND_NS, START_NS, Story
from trainshed_client.statuses import FailureReason, NodeStatus
from trainshed_client.subjects import Role

MOST_SLOTS_PER_GPU = 3


class Worker(msgspec.Struct):
    """A worker that an agent has launched for an attempt."""

    ref: AttemptRef
    cancel: bool = False


class Agent:
    """A node's agent: it takes what is pushed to it in order, and never twice."""

    def __init__(self, name: str, *, gpus: int, slots_per_gpu: int, cpus: int, memory_mb: int) -> None:
        self.name = name
        self.gpus, self.slots_per_gpu, self.cpus, self.memory_mb = gpus, slots_per_gpu, cpus, memory_mb
        self.generation = 0
        self.joined_seq = 0
        self.seen = 0
        self.upto = 0
        self.alive = False
        self.reachable = True
        self.workers: dict[AttemptRef, Worker] = {}
        self.fenced: list[AttemptRef] = []

    @property
    def incarnation(self) -> str:
        """The id in its state folder; another machine of the name has another."""
        return f"{self.name}-{self.generation}"


class Deciding:
    """A dispatcher: its own fold, as late as the test wants it, and its decisions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State()
        self.position = 0
        self.past: dict[str, Run] = {}
        self.decisions = Decisions()
        self.epoch = 0

    def fold(self, log: list[StoredEvent], many: int | None = None) -> None:
        """Fold the next events of the log, all of them unless told how many."""
        end = len(log) if many is None else min(len(log), self.position + many)
        for one in log[self.position : end]:
            wanted = ended_runs_needed(self.state, one)
            change = evolve(self.state, one, {r: self.past[r] for r in wanted if r in self.past})
            for run_change in change.runs:
                self.past[run_change.after.run_id] = run_change.after
            self.position = one.seq
            self.decisions.note(self.state, one, change)


class Cluster:
    """The log (``story`` folds it at once: that is the truth) and everybody who writes it."""

    def __init__(self, dispatchers: int = 2) -> None:
        self.story = Story()
        self.now_s = 1.0
        self.agents: dict[str, Agent] = {}
        self.dispatchers = [Deciding(f"d{number}") for number in range(dispatchers)]
        self.submitted = 0

    # --- the log --------------------------------------------------------------------------------------------

    def put(self, role: Role, event: Event, node: str | None = None) -> int:
        """Store an event, and check what must hold at every sequence."""
        self.now_s += 0.001
        self.story.at_s = self.now_s
        seq = self.story.put(role, event, node)
        self.check()
        if isinstance(event, Dispatched) and self.story.change.runs:
            self._check_devices(event)
        return seq

    def _check_devices(self, grant: Dispatched) -> None:
        """A run's slots lie on as many different devices as it asked for, and are all of each where it wants these whole."""
        node, needs = self.story.state.nodes.get(grant.node), self.story.run(grant.run_id).needs
        if node is None or node.joined_seq > grant.view.seq:
            return  # decided by an earlier inventory
        slots = [(device.place, device.index in grant.slots) for device in node.gpus]
        places = {place for place, granted in slots if granted}
        assert len(places) == needs.gpus or (not needs.mandatory and len(places) < needs.gpus)
        assert len(grant.slots) == (
            sum(place in places for place, _ in slots) if needs.whole else len(places)
        )

    def check(self) -> None:
        """Invariant I2, and no node granted more than it has."""
        state = self.story.state
        for name, usage in state.usage.items():
            assert all(len(refs) == 1 for refs in usage.slots.values()), f"{name}: two attempts hold one slot"
            agent = self.agents[name]
            assert usage.cpus <= agent.cpus, f"{name}: {usage.cpus} CPUs granted of {agent.cpus}"
            assert usage.memory_mb <= agent.memory_mb
            assert all(index < agent.gpus * MOST_SLOTS_PER_GPU for index in usage.slots)
        for uuid, holders in state.held_uuids.items():
            held = [
                placement
                for run_id in {ref.run_id for ref in holders}
                if isinstance(phase := state.runs[run_id].phase, Active)
                for placement in phase.placements
                if uuid in placement.uuids
            ]
            if len(held) > 1:
                assert all(uuid in placement.shared for placement in held), (
                    "one alone and another hold a device"
                )
                assert len({placement.node for placement in held}) == 1, "a device is held on two nodes"
        workers: dict[str, list[AttemptRef]] = {}
        for agent in self.agents.values():
            for ref in agent.workers:
                workers.setdefault(ref.run_id, []).append(ref)
        for run_id, refs in workers.items():
            assert len(refs) == 1, f"{run_id}: two workers, {refs}"

    # --- dispatchers ------------------------------------------------------------------------------------------

    def stand(self, dispatcher: Deciding) -> None:
        """It is elected and folds up to its own Elected."""
        dispatcher.epoch = self.put(
            Role.DISPATCHER,
            Elected(name=dispatcher.name, scheduler=SchedulerInfo(name="s", version=1), rules=KNOWN),
        )
        dispatcher.fold(self.story.log)
        dispatcher.decisions.in_flight.clear()

    def turn(self, dispatcher: Deciding, *, acknowledged: int | None = None) -> int:
        """Decide and append under the epoch's guard; the number of events stored.

        ``acknowledged``: after so many appends one gets no answer (it is stored), so the dispatcher stands again.
        """
        if dispatcher.epoch == 0 or dispatcher.state.epoch != dispatcher.epoch:
            return 0
        events = dispatcher.decisions.decide(
            dispatcher.state,
            dispatcher.position,
            dispatcher.epoch,
            START_NS + int(self.now_s * SECOND_NS),
            self.silent(),
        )
        assert len(events) <= BATCH_LIMIT
        for place, event in enumerate(events):
            decision = dispatcher.decisions.in_flight.add(event)
            if self.story.state.epoch != dispatcher.epoch:
                dispatcher.epoch = 0  # the guard refuses: deposed
                return place
            seq = self.put(Role.DISPATCHER, event)
            if acknowledged is not None and place >= acknowledged:
                self.stand(dispatcher)
                return place + 1
            decision.seq = seq
        return len(events)

    def silent(self) -> dict[str, float]:
        """The nodes that have been silent too long."""
        return {name: 99.0 for name, agent in self.agents.items() if not (agent.alive and agent.reachable)}

    # --- agents -----------------------------------------------------------------------------------------------

    def add(
        self, name: str, *, gpus: int = 2, slots_per_gpu: int = 1, cpus: int = 4, memory_mb: int = 1_000
    ) -> None:
        """A machine with an agent, which joins."""
        self.agents[name] = Agent(
            name, gpus=gpus, slots_per_gpu=slots_per_gpu, cpus=cpus, memory_mb=memory_mb
        )
        self.join(name)

    def join(self, name: str) -> None:
        """Begin a session, as docs/protocol.md rules 8 and 11 have it: the list is what it has."""
        agent = self.agents[name]
        node = self.story.state.nodes.get(name)
        if node is not None and node.incarnation != agent.incarnation:
            gone = node.status is NodeStatus.REMOVED
            left = node.status is NodeStatus.LEFT and node.left_attempts == 0
            if not gone and not left:
                return  # the name belongs to another state folder
        if node is not None and node.status is NodeStatus.REMOVED and node.incarnation == agent.incarnation:
            agent.workers.clear()  # removed since its last join: it ends every worker first
        agent.alive = agent.reachable = True
        agent.joined_seq = self.story.join(
            name,
            agent.incarnation,
            slots=agent.gpus,
            slots_per_gpu=agent.slots_per_gpu,
            cpus=agent.cpus,
            memory_mb=agent.memory_mb,
            attempts=[(ref.run_id, ref.attempt) for ref in (*agent.workers, *agent.fenced)],
        )
        agent.upto = agent.joined_seq
        self.check()

    def take(self, name: str, many: int | None = None) -> None:
        """Take what the dispatcher's consumer pushes: launch, or stop."""
        agent = self.agents[name]
        if not agent.alive or not agent.reachable:
            return
        pushed = [
            one
            for one in self.story.log[agent.seen :]
            if one.subject.role == Role.DISPATCHER and one.subject.node == name
        ]
        for one in pushed[:many]:
            agent.seen = one.seq
            event = one.event
            if isinstance(event, NodeLost):
                if event.incarnation == agent.incarnation and one.seq > agent.joined_seq:
                    self.join(name)
                continue
            assert isinstance(event, Dispatched | Stopping)
            if event.incarnation != agent.incarnation:
                continue  # of another's time
            ref = AttemptRef(event.run_id, event.attempt)
            if isinstance(event, Dispatched):
                if one.seq > agent.joined_seq:
                    agent.upto = one.seq
                    self._launch(agent, event, ref)
                else:
                    self._report(agent, ref, not_started=True)
            elif ref in agent.workers:
                agent.workers[ref].cancel = event.reason == "cancel"
                self.end(name, ref)
            else:
                self.story.stopped(ref.run_id, ref.attempt, node=name)
                self.check()

    def _launch(self, agent: Agent, grant: Dispatched, ref: AttemptRef) -> None:
        agent.workers[ref] = Worker(ref)
        self.put(
            Role.AGENT, Started(run_id=ref.run_id, attempt=ref.attempt, pid=1, host=agent.name), agent.name
        )

    def _report(self, agent: Agent, ref: AttemptRef, *, not_started: bool) -> None:
        if ref not in agent.workers:
            self.story.fail(ref.run_id, ref.attempt, reason=FailureReason.NOT_STARTED, node=agent.name)
            self.check()

    def end(self, name: str, ref: AttemptRef, *, well: bool = True) -> None:
        """A worker's tree is gone; its agent says how."""
        agent = self.agents[name]
        worker = agent.workers.pop(ref)
        if worker.cancel:
            self.story.stopped(ref.run_id, ref.attempt, node=name)
        elif well:
            self.story.complete(ref.run_id, ref.attempt, node=name)
        else:
            self.story.fail(ref.run_id, ref.attempt, node=name)
        self.check()

    def leave(self, name: str) -> None:
        """A clean shutdown; workers run on."""
        agent = self.agents[name]
        node = self.story.state.nodes.get(name)
        own = node is not None and node.incarnation == agent.incarnation
        if not agent.alive or node is None or not own or node.joined_seq != agent.joined_seq:
            return
        agent.alive = False
        self.story.leave(
            name, agent.incarnation, upto=agent.upto, attempts=[(r.run_id, r.attempt) for r in agent.workers]
        )
        self.check()

    def die(self, name: str) -> None:
        """The machine is gone, with its workers."""
        agent = self.agents[name]
        agent.alive = False
        agent.workers.clear()

    def remove(self, name: str) -> None:
        """The operator's word, which is true here: the machine that comes next is another one."""
        agent = self.agents[name]
        node = self.story.state.nodes.get(name)
        if agent.alive or node is None or node.status not in (NodeStatus.LOST, NodeStatus.LEFT):
            return
        agent.workers.clear()
        self.story.remove(name, node.incarnation)
        agent.generation += 1
        self.check()

    # --- until nothing happens any more -------------------------------------------------------------------------

    def run_until_quiet(self, rounds: int = 400) -> None:
        """Everybody is back and does what is theirs: invariant I1 says that every run ends then."""
        for name, agent in self.agents.items():
            agent.reachable = True
            if not agent.alive:
                self.join(name)
                if not agent.alive:  # the name is another's: a machine that is gone is removed
                    node = self.story.state.nodes[name]
                    if node.status in (NodeStatus.LOST, NodeStatus.LEFT):
                        self.story.remove(name, node.incarnation)
                    self.join(name)
            node = self.story.state.nodes[name]
            if node.drained:
                self.story.resume(name, node.incarnation)
        active = self.dispatchers[0]
        active.fold(self.story.log)
        self.stand(active)
        for _ in range(rounds):
            before = self.story.seq
            active.fold(self.story.log)
            self.turn(active)
            for name, agent in self.agents.items():
                self.take(name)
                for ref in list(agent.workers):
                    self.end(name, ref)
                if not agent.alive:
                    self.join(name)
            if self.story.seq == before:
                if not self.story.state.runs:
                    return
                self.now_s += 61.0  # a back-off
        left = {
            run_id: (run.status, run.phase, run.cancel_requested)
            for run_id, run in self.story.state.runs.items()
        }
        raise AssertionError(f"these never end: {left}")

    def live(self) -> list[tuple[Run, Active]]:
        """All live attempts."""
        return [(run, at) for name in self.agents for run, at, _ in self.story.state.attempts_of(name)]
