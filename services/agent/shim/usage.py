"""What an attempt's tree used of the machine, once it is gone: CPU time and the peak of its memory.

Owns which of the kernel's numbers count; knows no attempt and writes nothing.
"""

from __future__ import annotations

import resource

from services.agent.shim import cgroup


def of_tree(worker_cgroup: str) -> dict[str, object]:
    """The columns of `usage` that a shim knows. Both numbers are lower bounds, so of two the larger one counts.

    The kernel adds up for a parent only the children that it waited for; who ignores SIGCHLD or moves to another
    cgroup is missing in one of the two sums.
    """
    waited_for = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = max(waited_for.ru_utime + waited_for.ru_stime, cgroup.cpu_s(worker_cgroup) or 0.0)
    peak_mb = -(-waited_for.ru_maxrss // 1024)  # of its largest process: KiB on Linux
    return {"cpu_s": round(cpu_s, 3), "memory_peak_mb": peak_mb}
