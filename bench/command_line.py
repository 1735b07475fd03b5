"""How long a command takes as a whole process, against `python -c pass`.

Usage: python -m bench.command_line [--times 15] [--runs 1000]. Targets: help 0.2 s, submit 0.3 s, and with 10,000 runs
(--runs 10000) all of them listed in 1 s, `ls` and `show` as with a few.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence

from bench.drain import CPUS, drain
from bench.stack import Stack, running_stack
from bench.timing import Figure, figure, machine, median, table

TRAINSHED = (sys.executable, "-P", "-m", "services.cli")
BASE = "python -c pass"
CLIENT = "import of the client's class"
"""To the start of a Python that does nothing it adds 0.15 s at most."""


def timed(stack: Stack, command: Sequence[str]) -> float:
    """Seconds from its start to its end. Raises RuntimeError, with what it said, where it fails."""
    begun = time.perf_counter()
    done = subprocess.run(command, env=stack.environment, check=False, capture_output=True)
    took = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.decode()[-500:]}")
    return took


def measure(stack: Stack, times: int, commands: dict[str, Sequence[str]]) -> dict[str, list[float]]:
    """Each command in turn, as often as asked, after one turn that is not counted."""
    out: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(times + 1):
        for name, command in commands.items():
            took = timed(stack, command)
            if turn:
                out[name].append(took)
    return out


def newest(stack: Stack) -> str:
    """The id of the newest run."""
    command = (*TRAINSHED, "ls", "-n", "1", "--json")
    done = subprocess.run(command, env=stack.environment, check=True, capture_output=True)
    run_id: str = json.loads(done.stdout)["runs"][0]["run_id"]
    return run_id


def figures(times: int = 15, runs: int = 1000) -> list[Figure]:
    """For the table of all benchmarks."""
    submit = ("submit", "--new", "--", "/bin/true")
    with running_stack(cpus=CPUS) as stack:
        asyncio.run(drain(stack, 10))
        took = measure(
            stack,
            times,
            {
                BASE: (sys.executable, "-c", "pass"),
                CLIENT: (sys.executable, "-c", "from trainshed_client import Trainshed"),
                "trainshed --help": (*TRAINSHED, "--help"),
                "trainshed submit": (*TRAINSHED, *submit),
                "trainshed ls, few runs": (*TRAINSHED, "ls"),
                "trainshed show, few runs": (*TRAINSHED, "show", newest(stack)),
            },
        )
        asyncio.run(drain(stack, runs))
        took |= measure(
            stack,
            times,
            {
                f"trainshed ls, {runs} runs": (*TRAINSHED, "ls"),
                f"trainshed show, {runs} runs": (*TRAINSHED, "show", newest(stack)),
                f"trainshed ls --all, {runs} runs": (*TRAINSHED, "ls", "--all"),
                f"trainshed ls --all --json, {runs} runs": (*TRAINSHED, "ls", "--all", "--json"),
            },
        )
    base = median(took[BASE])
    targets = {CLIENT: base + 0.15, "trainshed --help": 0.2, "trainshed submit": 0.3}
    targets |= {name: 1.0 for name in took if " --all" in name}
    out = []
    for name, values in took.items():
        ratio = "" if name == BASE else f" ({median(values) / base:.1f} × {BASE})"
        out.append(figure(name + ratio, values, "s", at_most=targets.get(name)))
    return out


def main() -> None:
    """Print each command's time and its ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    print(machine())
    print(table(figures(options.times, options.runs)))


if __name__ == "__main__":
    main()
