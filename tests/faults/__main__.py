"""`python -m tests.faults --seed N --duration 60s`: rounds of runs and faults, and a table of what they found."""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import shlex
import shutil
import sys
import time
from collections.abc import Callable

from services import logging
from services.durations import parse_duration
from services.settings import LogFormat, LogLevel
from tests.faults.kinds import DISK, LANES, Kind
from tests.faults.report import seeded_table, table
from tests.faults.round import Plan, Result, play
from tests.faults.seeded import BUGS

ROUND_S = 30.0
SEEDED_ROUNDS = 8
SEEDED_S = 15.0
SEEDED_STILL_S = 25.0


def main() -> int:
    """1 where something that must hold did not (or a seeded bug was not found), 2 where a round broke off."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, metavar="N", help="of the first round; the next ones count on")
    parser.add_argument("--duration", default="60s", help="how long faults happen, over all rounds (60s)")
    parser.add_argument("--round", default=f"{ROUND_S:g}s", help=f"how long in one round ({ROUND_S:g}s)")
    parser.add_argument("--only", metavar="WORDS", help="only faults whose names have one of these, by comma")
    parser.add_argument("--dispatchers", type=int, choices=(1, 2, 3), help="not by seed, but so many")
    parser.add_argument("--lanes", type=int, default=LANES, help=f"faults that go on at once ({LANES})")
    parser.add_argument("--bug", choices=[*BUGS], help="with this bug in the services")
    parser.add_argument("--seeded-bugs", action="store_true", help="is each of them found?")
    parser.add_argument("--keep", action="store_true", help="keep every round's folder in /tmp/faults-*")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the table alone")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.randrange(1, 1_000_000)
    if asked.seeded_bugs:
        return _seeded(seed, asked.quiet)
    kinds = _kinds(asked.only)
    if not kinds:
        parser.error(f"--only {asked.only!r} names no fault; there are: {', '.join(Kind)}")
    # What the server's keeper would say here of each fault.
    logging.configure(LogFormat.JSON, LogLevel.ERROR, stream=io.StringIO())
    duration, each = parse_duration(asked.duration), parse_duration(asked.round)
    results: list[Result] = []
    began = time.monotonic()
    try:
        while duration > 0:
            plan = Plan(
                seed=seed + len(results),
                seconds=min(each, duration),
                kinds=kinds,
                dispatchers=asked.dispatchers,
                lanes=asked.lanes,
                bug=asked.bug,
                small_disk=any(kind in DISK for kind in kinds),
                keep=asked.keep,
                words=_words(asked),
            )
            duration -= plan.seconds
            results.append(asyncio.run(play(plan, _sayer(plan, asked.quiet))))
            _told(results[-1], asked.quiet)
    finally:
        print(table(results, time.monotonic() - began), flush=True)
    if any(result.violations for result in results):
        return 1
    return 2 if any(result.broken for result in results) else 0


def _kinds(only: str | None) -> tuple[Kind, ...]:
    if only is None:
        return tuple(Kind)
    return tuple(kind for kind in Kind if any(word.strip() in kind for word in only.split(",")))


def _words(asked: argparse.Namespace) -> str:
    words = []
    for name in ("only", "dispatchers", "lanes", "bug"):
        if (value := getattr(asked, name)) not in (None, LANES if name == "lanes" else None):
            words += [f"--{name}", shlex.quote(str(value)).replace("'", '"')]
    return " ".join(words)


def _seeded(seed: int, quiet: bool) -> int:
    """Each seeded bug, until it is found or a few rounds have not."""
    caught: list[tuple[str, Result | None, int]] = []
    for name, bug in BUGS.items():
        found: Result | None = None
        for number in range(SEEDED_ROUNDS):
            plan = Plan(
                seed=seed + number,
                seconds=SEEDED_S,
                kinds=_kinds(bug.only),
                bug=name,
                small_disk="disk" in bug.only,
                still_s=SEEDED_STILL_S,
                words=f'--bug "{name}" --only "{bug.only}"',
            )
            result = asyncio.run(play(plan, _sayer(plan, quiet)))
            _told(result, quiet)
            shutil.rmtree(result.folder, ignore_errors=True)
            if any(each.invariant in bug.found_by for each in result.violations):
                found = result
                break
        caught.append((name, found, number + 1))
        if not quiet:
            print(seeded_table(caught[-1:]).splitlines()[1], file=sys.stderr, flush=True)
    print(seeded_table(caught))
    return int(any(found is None for _, found, _ in caught))


def _sayer(plan: Plan, quiet: bool) -> Callable[[str], None]:
    began = time.monotonic()

    def say(what: str) -> None:
        if not quiet:
            print(f"[{plan.seed}] {time.monotonic() - began:6.1f} s  {what}", file=sys.stderr, flush=True)

    return say


def _told(result: Result, quiet: bool) -> None:
    if quiet and not result.violations:
        return
    print(
        f"[{result.plan.seed}] {sum(result.tries.values())} faults, {sum(result.runs.values())} runs,"
        f" {len(result.violations)} violations, {result.seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
