"""`trainshed audit verify`: is the read model what the log says, and does the log keep the invariants?

Owns what is printed and the exit code; replay and comparison are projections.audit.verify's.
"""

from __future__ import annotations

import sys
from contextlib import aclosing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from services.cli.audit_files import files_audit, print_compared
from services.cli.audit_witnesses import Brought, Evidence, brought, gathered
from services.cli.common import (
    connected,
    exit_with,
    json_option,
    log_errors,
    nats_option,
    note,
    print_json,
    run_async,
    stored_log,
)
from services.cli.how_far import how_far
from services.cli.policy_option import policy_option, read_policy
from services.cli.text import clean, time_of_day
from services.cli.verb import verb
from trainshed_client.errors import ExitCode
from trainshed_client.os_errors import why

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from projections.audit.acknowledged import SubmitAnswer
    from projections.audit.files import FilesCompared
    from projections.audit.verify import Verdict
    from services.cli.audit_decisions import DecisionsCheck
    from services.dispatcher.decided_again import DecidedAgain

NOT_CHECKED = {
    "acks": "whether what was acknowledged is there (--acks FILE)",
    "checkpoints": "whether a well-made event was put in another's place, or the end cut off (--against FILE)",
    "after_checkpoints": "the same of what was stored after the last of the checkpoints",
    "keys": "whose the nodes' keys are: they came from the log itself (--policy FILE)",
    "decisions": "whether the scheduler would grant the same again (--decisions)",
    "files": "workers' output and artifacts (--files)",
    "authors": "who wrote an event: with the credentials of a node or a service anybody may say what that one could have said",
    "unhashed": "columns outside the state hash: configs, and what heartbeats told of what is live",
}
"""What a verdict says nothing of, by its name in JSON."""


@verb("trainshed audit verify", "trainshed audit verify --acks answers.jsonl")
@click.option(
    "--acks",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What `submit --json` printed, a line an answer: is each one in the log?",
)
@click.option(
    "--against",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Checkpoints kept from before (audit checkpoint): does the log still begin with what they were made of?",
)
@click.option(
    "--tiles",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A copy of <state>/audit from before: names the very event where it is no longer the same.",
)
@click.option(
    "--decisions",
    is_flag=True,
    help="Decide each grant again from what its dispatcher saw: where this scheduler made it, with these settings.",
)
@click.option(
    "--files",
    is_flag=True,
    help="Ask each node: have its runs' output and artifacts the sizes and hashes that the log says?",
)
@policy_option
@json_option
@nats_option
def verify(
    as_json: bool,
    acks: Path | None,
    against: Path | None,
    tiles: Path | None,
    decisions: bool,
    files: bool,
    policy: Path | None,
) -> None:
    """Replay the whole log here and compare with the stack's own tables, row for row and by state hash, and with what the
    nodes have cosigned of it.

    Exit code 1 where they differ, an invariant does not hold, or no checkpoint of the log is what the policy asks for.
    """
    if tiles is not None and against is None:
        raise click.BadParameter("is of use with --against alone: the checkpoints", param_hint="--tiles")
    own = brought(against, tiles, read_policy(policy))
    again = _again() if decisions else None
    answers = _answers(acks) if acks is not None else []
    verdict, evidence, compared = run_async(_verify(answers, own, again, with_files=files))
    decided = None if again is None else again.result
    by_policy = evidence.judged()
    ok = verdict.ok and (by_policy is None or by_policy.met)
    unchecked = not_checked(
        acks=acks is not None,
        kept=evidence.size,
        events=verdict.events,
        keys=not evidence.strangers,
        decisions=decisions,
        files=files,
    )
    if as_json:
        print_json(
            {
                "v": 1,
                "ok": ok,
                "seq": verdict.seq,
                "end": verdict.end,
                "events": verdict.events,
                "state_hash": verdict.state_hash,
                "violations": verdict.violations,
                "late": verdict.late,
                "unreadable": verdict.unreadable,
                "not_counted": verdict.not_counted,
                "accepted": verdict.accepted,
                "cosigned": evidence.borne_out(),
                "policy": by_policy,
                "decisions": None if decided is None else counts(decided),
                "files": compared,
                "not_checked": unchecked,
            }
        )
    else:
        _print(verdict, unchecked, decided, compared, evidence.lines(by_policy, str(policy)))
        if by_policy is not None and not by_policy.met:
            note(
                "whoever altered a log could leave out who cosigned it: ask the policy's witnesses, or whoever kept a checkpoint"
            )
    exit_with(ExitCode.OK if ok else ExitCode.VIOLATION)


def not_checked(
    *, acks: bool, kept: int | None, events: int, keys: bool, decisions: bool, files: bool
) -> list[str]:
    """What was not checked, as keys of NOT_CHECKED. ``kept``: the size of the largest checkpoint, of a file or a node; None:
    there was none. ``keys``: whether it is known whose they are that cosigned."""
    after = kept is not None and kept < events
    left_out = {
        "acks": not acks,
        "checkpoints": kept is None,
        "after_checkpoints": after,
        "keys": not keys,
        "decisions": not decisions,
        "files": not files,
    }
    return [name for name in NOT_CHECKED if left_out.get(name, True)]


def counts(decided: DecidedAgain) -> dict[str, int]:
    """How the grants came out that were decided again, for JSON."""
    return {"same": decided.same, "different": decided.different, "unchecked": decided.unchecked}


def _answers(path: Path) -> list[SubmitAnswer]:
    from projections.audit.acknowledged import read_acks

    try:
        return read_acks(path.read_bytes().splitlines(), str(path))
    except OSError as error:
        raise click.BadParameter(f"{path}: {why(error)}", param_hint="--acks") from None


def _again() -> DecisionsCheck:
    from services.cli.audit_decisions import DecisionsCheck

    return DecisionsCheck()


async def _verify(
    acks: list[SubmitAnswer], own: Brought, decisions: DecisionsCheck | None, *, with_files: bool
) -> tuple[Verdict, Evidence, FilesCompared | None]:
    from projections.audit.verify import rows_from
    from projections.audit.verify import verify as replay_and_compare

    async with connected() as trainshed:
        with log_errors(trainshed):
            log = stored_log(trainshed)
            evidence = await gathered(trainshed, log, own)
            # Closed before the connection is, whatever happens to the replay.
            async with aclosing(cast("AsyncGenerator[bytes, None]", rows_from(trainshed.nc))) as rows:
                terminal = sys.stderr.isatty()
                with (
                    files_audit(trainshed, log, terminal) if with_files else nullcontext() as files,
                    how_far("replaying", terminal, again="once more, for what set it") as progress,
                ):
                    checks = [check for check in (decisions, files) if check is not None]
                    verdict = await replay_and_compare(log, rows, acks, evidence.against, checks, progress)
                    return verdict, evidence, None if files is None else files.compared


def _print(
    verdict: Verdict,
    unchecked: list[str],
    decided: DecidedAgain | None = None,
    files: FilesCompared | None = None,
    witnessed: Sequence[str] = (),
) -> None:
    from projections.audit.violation import MAX_VIOLATIONS

    replayed = f"replayed {verdict.events:,} events, up to {verdict.end}"
    if verdict.ok:
        as_of = "" if verdict.seq == verdict.end else f" as of {verdict.seq}"
        click.echo(f"{replayed}: the tables are the same{as_of} (state hash {verdict.state_hash[:12]}…)")
    else:
        count = len(verdict.violations)
        more = "or more " if count == MAX_VIOLATIONS else ""
        click.echo(f"{replayed}: {count} {more}violation{'' if count == 1 else 's'}")
        for violation in verdict.violations:
            click.echo(f"  {violation.invariant} at {violation.seq}: {clean(violation.message)}")
    if decided is not None:
        _print_decided(decided)
    if files is not None:
        print_compared(files)
    for line in witnessed:
        click.echo(f"  {line}")
    _print_uncounted(verdict)
    _print_unchecked(unchecked)
    if verdict.ok:
        return
    broken = {violation.invariant for violation in verdict.violations}
    if "I10" in broken:
        note("what lies on the nodes is not what the log says: keep it as it is, and ask who wrote there")
    if "I8" in broken:
        note(
            "the log is not what was signed before, or says what its nodes never said: it was altered, cut, forged or restored "
            "from a backup; keep both, and ask who did"
        )
    elif "I6" in broken:
        note("the log lacks what was acknowledged: keep it and its server's files as they are, and tell us")
    elif broken - {"I4", "I10"}:
        note(
            "the log holds what no part of Trainshed should have written, or lacks what it held: keep it and its server's "
            "files as they are, ask who can write to it, and tell us"
        )
    elif "I4" in broken:
        note("the tables are not what the log says: keep both, and tell us")


def _print_decided(decided: DecidedAgain) -> None:
    from services.dispatcher.decided_again import UNCHECKED

    otherwise = f", {decided.different:,} otherwise" if decided.different else ""
    click.echo(f"  grants decided again: {decided.same:,} the same{otherwise}")
    if decided.unchecked:
        click.echo(f"  grants not checked: {decided.unchecked:,} ({UNCHECKED})")


def _print_unchecked(unchecked: list[str]) -> None:
    for name in unchecked:
        click.echo(f"  not checked: {NOT_CHECKED[name]}")


def _print_uncounted(verdict: Verdict) -> None:
    """What is no finding, and yet is told: what did nothing (retries and races leave such events), and what was accepted."""
    for one in verdict.accepted:
        click.echo(
            f"  accepted at {one.seq} by {clean(one.by)}, {time_of_day(one.time)}: {clean(one.reason)}"
        )
    if verdict.late:
        click.echo(
            f"  late: {verdict.late:,} (ends after their attempt's first: results kept, no status changed)"
        )
    if verdict.not_counted:
        kinds = (f"{one.count:,} {one.type} (the first at {one.first})" for one in verdict.not_counted)
        click.echo(f"  not counted: {', '.join(kinds)}")
    if verdict.unreadable:
        click.echo(f"  not readable, in quarantine: {verdict.unreadable:,}")
