"""The table that the suite prints: faults, tries, violations with their seeds, and what so many tries prove.

Owns the words; pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.faults.round import Plan, Result
from tests.faults.seeded import BUGS


def bound(tries: int) -> str:
    """The rule of three: nothing in ``tries`` tries leaves a rate below 3/tries at 95 %."""
    return f"< {3 / tries:.2%}" if tries > 3 else "-"


def table(results: Sequence[Result], seconds: float) -> str:
    """All of it."""
    tries: Counter[str] = sum((each.tries for each in results), Counter())
    checked: Counter[str] = sum((each.checked for each in results), Counter())
    bad = [each for each in results if each.violations]
    lines = [
        f"{len(results)} rounds in {seconds:.0f} s, seeds {results[0].plan.seed} to {results[-1].plan.seed}"
        if results
        else "no round was played",
        "",
        _row("fault", "tries", "violations", "rate at 95 %", "seeds"),
    ]
    for kind in results[0].plan.kinds if results else ():
        seeds = [each.plan.seed for each in bad if each.tries[kind]]
        violations = sum(len(each.violations) for each in bad if each.tries[kind])
        lines.append(
            _row(
                kind,
                str(tries[kind]),
                str(violations),
                bound(tries[kind]) if not violations else "-",
                _seeds(seeds),
            )
        )
    total, violations = sum(tries.values()), sum(len(each.violations) for each in bad)
    lines.append(
        _row(
            "all",
            str(total),
            str(violations),
            "-" if violations else bound(total),
            _seeds([each.plan.seed for each in bad]),
        )
    )
    lines += ["", "checked: " + ", ".join(f"{count} {what}" for what, count in checked.items())]
    points: Counter[str] = sum((each.points for each in results), Counter())
    if points:
        lines.append("failpoints struck: " + ", ".join(f"{name} {points[name]}" for name in sorted(points)))
    notes: Counter[str] = sum((each.notes for each in results), Counter())
    lines += [f"note: {count} x {what}" for what, count in notes.most_common(20)]
    for each in bad:
        lines += [
            "",
            f"seed {each.plan.seed}: {len(each.violations)} violations, everything is in {each.folder}",
        ]
        lines += [f"  {v.invariant} at {v.seq}: {v.what}"[:600] for v in each.violations[:20]]
        lines.append(f"  again: {again(each.plan)}")
    for each in results:
        if each.broken is not None:
            lines += ["", f"seed {each.plan.seed}: the round broke off ({each.folder})", each.broken]
    return "\n".join(lines)


def again(plan: Plan) -> str:
    """The command that plays this round again."""
    command = f"make faults SEED={plan.seed} DURATION={plan.seconds:g}s"
    words = f"--round {plan.seconds:g}s {plan.words}".strip()
    return f"{command} ARGS='{words}'"


def seeded_table(caught: Sequence[tuple[str, Result | None, int]]) -> str:
    """Each seeded bug, and what found it."""
    lines = [_seeded_row("seeded bug", "found by", "round", "what it says")]
    for name, result, rounds in caught:
        if result is None:
            lines.append(_seeded_row(name, "NOTHING", str(rounds), ""))
            continue
        by = sorted({each.invariant for each in result.violations})
        first = next(each for each in result.violations if each.invariant in BUGS[name].found_by)
        lines.append(_seeded_row(name, ", ".join(by), str(rounds), first.what[:110]))
    return "\n".join(lines)


def _seeded_row(name: str, by: str, rounds: str, what: str) -> str:
    return f"{name:42} {by:14} {rounds:>5}  {what}"


def _row(name: str, tries: str, violations: str, rate: str, seeds: str) -> str:
    return f"{name:44} {tries:>6} {violations:>10}  {rate:>12}  {seeds}"


def _seeds(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds[:8])) + (" ..." if len(seeds) > 8 else "")
