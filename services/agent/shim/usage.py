"""What an attempt's tree used of the machine, once it is gone: CPU time and the peak of its memory.

Owns which of the kernel's numbers count; knows no attempt and writes nothing.
"""

from __future__ import annotations

import resource

from services.agent.shim import cgroup


def of_tree(worker_cgroup: str, memory_cgroup: str) -> dict[str, object]:
    """The columns of `usage` that a shim knows.

    The kernel adds up for a parent only the children that it waited for, and a cgroup misses who moved to another: of
    two sums of CPU time, both lower bounds, the larger one counts.
    """
    waited_for = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = max(waited_for.ru_utime + waited_for.ru_stime, cgroup.cpu_s(worker_cgroup) or 0.0)
    peak = cgroup.memory_peak(memory_cgroup)
    if peak is None:
        peak = waited_for.ru_maxrss * 1024  # of its largest process
    return {"cpu_s": round(cpu_s, 3), "memory_peak_mb": -(-peak // (1 << 20))}
