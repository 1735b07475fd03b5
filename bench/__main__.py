"""Every benchmark, one after the other, in one table. Usage: python -m bench [--quick] [NAME ...]."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

from bench import command_line, drain, flood, idle, start_up, submit_to_exec, watchers
from bench.timing import Figure, machine, table

BENCHES: dict[str, tuple[Callable[[], list[Figure]], Callable[[], list[Figure]]]] = {
    "submit_to_exec": (submit_to_exec.figures, lambda: submit_to_exec.figures(100)),
    "drain": (drain.figures, lambda: drain.figures(300, 2000)),
    "idle": (idle.figures, lambda: idle.figures(300, 20.0)),
    "command_line": (command_line.figures, lambda: command_line.figures(5, 100)),
    "watchers": (watchers.figures, lambda: watchers.figures(times=1)),
    "flood": (flood.figures, lambda: flood.figures(seconds=3.0, times=1)),
    "start_up": (start_up.figures, lambda: start_up.figures(2_500, times=2)),
}
PRINTING = ("scheduler", "nodes", "projector_rebuild")
"""Those that print for themselves: they need no stack. (`bench.audit_verify` and `bench.audit_rebuild` are called by themselves: their log takes minutes.)"""


def main() -> int:
    """Run what was asked for, or all; a line on stderr tells which is at work."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join((*BENCHES, *PRINTING)))
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: a look, not a result")
    options = parser.parse_args()
    names = options.names or [*BENCHES, *PRINTING]
    if unknown := [name for name in names if name not in BENCHES and name not in PRINTING]:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join((*BENCHES, *PRINTING))}")
    print(machine())
    figures: list[Figure] = []
    code = 0
    for name in names:
        if name in BENCHES:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                figures += BENCHES[name][options.quick]()
            except (RuntimeError, TimeoutError) as error:  # the others' figures are worth having all the same
                print(f"{name}: {error or 'gave up waiting'}", file=sys.stderr, flush=True)
                code = 1
    if figures:
        print(table(figures))
    for name in names:
        if name in PRINTING:
            print(f"{name}:", flush=True)
            code |= subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode
    return code


if __name__ == "__main__":
    sys.exit(main())
