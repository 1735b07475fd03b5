"""What the whole stack takes when nothing happens: memory (PSS) on a log of 1,000 runs, and CPU over a minute.

Usage: python -m bench.idle [--runs 1000] [--seconds 60]. Targets: 150 MB; 1 % of a core. The idle shims count too.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time

from bench.drain import CPUS, drain
from bench.processes import Process, tree
from bench.stack import running_stack
from bench.timing import Figure, figure, machine, table

IDLE_S = 15.0
"""After the last run: snapshots are written, the server's own caches and inactive consumers time out."""
LOOKS = 5


def measure(runs: int, seconds: float) -> tuple[list[list[Process]], float]:
    """The process tree, looked at several times over ``seconds``; and the seconds that it really took."""
    with running_stack(cpus=CPUS) as stack:
        asyncio.run(drain(stack, runs))
        time.sleep(IDLE_S)
        looks = [tree(stack.pid)]
        begun = time.monotonic()
        for _ in range(LOOKS):
            time.sleep(seconds / LOOKS)
            looks.append(tree(stack.pid))
        return looks, time.monotonic() - begun


def figures(runs: int = 1000, seconds: float = 60.0) -> list[Figure]:
    """For the table of all benchmarks: the whole stack, then each kind of process."""
    looks, took = measure(runs, seconds)
    first, last = looks[0], looks[-1]
    out = [
        figure(
            f"idle stack, PSS after {runs} runs ({len(last)} processes)",
            [sum(each.pss_mb for each in look) for look in looks],
            "MB",
            at_most=150,
        ),
        figure("idle stack, CPU", _shares(looks, took / LOOKS), "% of a core", at_most=1),
    ]
    before = {each.pid: each for each in first}
    for name in sorted({each.name for each in last}):
        now = [each for each in last if each.name == name]
        then = [before[each.pid] for each in now if each.pid in before]
        cpu = (sum(p.cpu_s for p in now) - sum(p.cpu_s for p in then)) / took * 100
        wakeups = (sum(p.wakeups for p in now) - sum(p.wakeups for p in then)) / took
        label = f"  {name}, {len(now)} process{'es' if len(now) > 1 else ''}"
        out.append(figure(f"{label}: PSS", [sum(p.pss_mb for p in now)], "MB"))
        out.append(figure(f"{label}: CPU ({wakeups:.0f} wakeups a second)", [cpu], "% of a core"))
    return out


def _shares(looks: list[list[Process]], every_s: float) -> list[float]:
    totals = [sum(each.cpu_s for each in look) for look in looks]
    return [(after - before) / every_s * 100 for before, after in itertools.pairwise(totals)]


def main() -> None:
    """Print both, and which process takes what."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    print(machine())
    print(table(figures(options.runs, options.seconds)))


if __name__ == "__main__":
    main()
