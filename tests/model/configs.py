"""The configurations that are searched: what there is and what may go wrong in each.

Owns their names; the first two run in `make test`, the others by hand and in the fault suite.
"""

from __future__ import annotations

from events import rules
from tests.model.model import Config


def _faults(text: str, most: int = 1) -> dict[str, int]:
    return dict.fromkeys(text.split(", "), most)


ONE_NODE = "crash, kill, ack, timeout, silence, election, fail, reboot, wipe, cancel, remove, leave"
NAMES = "crash, silence, remove, leave, new disk, timeout"

CONFIGS: dict[str, Config] = {
    # whole in `make test`: every pair of faults on one node
    "one-node": Config(total=2, faults=_faults(ONE_NODE)),
    # a dispatcher that was deposed removes what another made: the consumer begins again at the last NodeJoined
    "consumer": Config(hang=True, total=3, faults=_faults("cancel, crash, consumer, silence")),
    # run folders on storage that hangs, however long
    "storage": Config(
        slow_storage=True, hang=True, runs=2, total=2, faults=_faults("cancel, crash, silence, leave, kill")
    ),
    # a second state folder of the same name
    "names": Config(machines=(("n", "a"), ("n", "b")), total=3, faults=_faults(NAMES)),
    "three-faults": Config(total=3, faults=_faults(ONE_NODE)),
    "twice": Config(total=3, faults=_faults("crash, silence, kill, reboot, timeout, ack", 3)),
    "two-runs": Config(runs=2, total=2, faults=_faults(ONE_NODE)),
    "cancel": Config(
        hang=True, total=3, faults=_faults("crash, kill, timeout, silence, cancel, ack, reboot, retry")
    ),
    "removal": Config(total=4, faults=_faults("silence, remove, crash, timeout, cancel", 2)),
    "leaving": Config(runs=2, total=3, faults=_faults("leave, reclaim, crash, timeout, silence, cancel")),
    "half-reads": Config(
        machines=(("n", "a"), ("n", "b")),
        half_reads=True,
        total=3,
        faults=_faults("silence, remove, leave, crash, timeout"),
    ),
    "two-nodes": Config(
        machines=(("n", "a"), ("o", "c")),
        total=3,
        faults=_faults("crash, silence, remove, leave, timeout, election, cancel"),
    ),
    # nodes on loan that come and go: forgotten where they hold nothing, with grants on their way
    "forgetting": Config(
        machines=(("n", "a"), ("n", "b")),
        borrowed=True,
        total=3,
        faults=_faults("leave, silence, remove, crash, timeout, election, cancel"),
    ),
    "loans": Config(
        machines=(("n", "a"), ("o", "c")),
        borrowed=True,
        stays_away=True,
        runs=2,
        total=3,
        faults=_faults("leave, silence, remove, crash, timeout, cancel"),  # one leave: somebody is left
    ),
    # workers that cannot be started, by their own fault and by a node's that was blamed before
    "blaming": Config(
        machines=(("n", "a"), ("o", "c")),
        blamed=2,
        total=3,
        faults=_faults("spawn, kill, crash, silence, timeout, leave, resume, retry"),
    ),
    "suspects": Config(
        runs=3, gpus=0, blamed=2, total=2, faults=_faults("kill, crash, election, timeout", 2)
    ),
    # the log goes by the first release's rules up to the election of a newer one
    "new-rules": Config(
        machines=(("n", "a"), ("n", "b")),
        borrowed=True,
        first_rules=rules.FIRST,
        total=4,
        faults=_faults("leave, silence, remove, crash, timeout, election, cancel"),
    ),
    # a GPU is cut into slots anew at the second join, while a run has it whole
    "shared-gpu": Config(
        runs=2,
        slots_per_gpu=(1, 2),
        total=2,
        faults=_faults("crash, silence, timeout, election, leave, reboot"),
    ),
    # the same with grants that were decided before that join, of slots that number other devices after it
    "older-slots": Config(
        runs=2,
        devices=2,
        slots_per_gpu=(1, 2),
        total=2,
        faults=_faults("crash, silence, timeout, election, memory, reboot, cancel"),
    ),
    "late-words": Config(
        runs=2, total=3, faults=_faults("timeout, election, submit, silence, crash, duplicate", 2)
    ),
    # a cleaner of temporary folders takes what the node has of an attempt
    "vanishing": Config(
        total=3, faults=_faults("vanish, crash, kill, ack, duplicate, silence, cancel, timeout, leave, fail")
    ),
    "disks": Config(total=3, faults=_faults("wipe, new disk, reboot, full, crash, kill, silence, remove")),
}
