"""What holds at every state of the model (docs/contracts/invariants.md: I2, I3 and I5).

Owns these rules, with the one exception that docs/protocol.md rule 12 makes; knows no move. I1, I2 and the rules on
single events (terminal statuses, late results) are checked where they arise: `search` and `code`.
"""

from __future__ import annotations

from events.state import Active, Run
from tests.model.code import Broken
from tests.model.model import Disowned, Model
from tests.model.values import Fold, Proc, World

IN_THE_WAY = frozenset({"vanish", "kill", "spawn", "full", "reboot", "wipe", "new disk"})
"""The faults by which something of a machine may be in the way of a launch."""


class Invariants:
    """Remembers what was checked: worlds share most of what these rules look at."""

    def __init__(self, model: Model) -> None:
        self._names = [name for name, _ in model.config.machines]
        self._checked: set[tuple[object, ...]] = set()
        self._blames_none = not model.config.blamed and not IN_THE_WAY & model.config.faults.keys()

    def check(self, world: World) -> None:
        """Raises Broken."""
        key = (world.truth, world.disowned, world.procs)
        if key in self._checked:
            return
        self._checked.add(key)
        truth: Fold = world.truth.value
        runs = {run.run_id: run for run in truth.runs}
        workers = [(m, proc) for m, cell in enumerate(world.procs) for proc in cell.value if proc.live]
        for m, proc in workers:
            _is_granted(self._names[m], proc, runs.get(proc.ref.run_id), world.disowned.value)
        _is_alone(workers, runs)
        if self._blames_none:
            _is_blamed(truth)


def _is_granted(node: str, proc: Proc, run: Run | None, disowned: Disowned) -> None:
    """A worker runs only for an attempt that the log has active there: so its slots are not free.

    The exception: its incarnation was removed while the machine ran, and has not read so and joined since.
    """
    phase = run.phase if run is not None else None
    if isinstance(phase, Active) and phase.attempt == proc.ref.attempt:
        placement = phase.on(node)
        if placement is not None and placement.incarnation == proc.incarnation:
            return
    if (proc.incarnation, proc.ref) not in disowned:
        raise Broken(f"I3: a worker of {_at(proc)} runs, but the log does not have that attempt active there")


def _is_alone(workers: list[tuple[int, Proc]], runs: dict[str, Run]) -> None:
    """No attempt has two workers, no slot of a machine either, and no device that a run has whole, whatever the operator
    said."""
    for place, (m, proc) in enumerate(workers):
        for n, other in workers[:place]:
            if proc.ref == other.ref:
                raise Broken(f"I3: two workers of {_at(proc)}")
            known = [runs[each.ref.run_id] for each in (proc, other) if each.ref.run_id in runs]
            whole = any(run.needs.whole for run in known)
            shared = set(proc.slots) & set(other.slots) or (whole and set(proc.devices) & set(other.devices))
            if m == n and shared:
                raise Broken(f"I2: workers of {_at(proc)} and {_at(other)} on one device")


def _is_blamed(truth: Fold) -> None:
    """No node is blamed where nothing of a machine was ever in the way of a launch."""
    for node in truth.nodes:
        if node.failed_starts:
            raise Broken(f"rule 19: {node.name} is blamed, and could start everything")


def _at(proc: Proc) -> str:
    return f"{proc.ref.run_id}.{proc.ref.attempt}"
