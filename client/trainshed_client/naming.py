"""Which run a text of a person means: an id, a name or what a list shows in its place, or the unique beginning of one.

Owns that choice, the errors where it cannot be made, and what a list shows as a name; knows nothing of how runs are found.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.records import QueuedRunRecord, RunRecord

SHOWN = 5
"""So many candidates an error lists."""
CUT = "…"
"""What stands in a list for what of a name there was no room for."""

RUN_ID = r"[a-z2-7]{26}"
"""A run id, as a pattern: 26 characters of lower-case base32."""
_RUN_ID = re.compile(rf"{RUN_ID}\Z")
_PREFIX = re.compile(r"[a-z2-7]{1,26}\Z")


def is_run_id(text: str) -> bool:
    """True for a whole run id."""
    return _RUN_ID.match(text) is not None


def title_of(record: RunRecord) -> str:
    """What a list shows as the run's name; see `title`."""
    named = record.named
    if named is None:  # of an older release, which kept no more than the name
        named = not record.command or record.name not in _default_names(record.command)
    return title(record.name, record.command, named)


def title(name: str, command: Sequence[str], named: bool) -> str:
    """A run's name, or where nobody gave it one its command, as in ``python3 train.py --seed 1``."""
    return name if named or not command else shlex.join([command[0].rpartition("/")[2], *command[1:]])


def _default_names(command: Sequence[str]) -> set[str]:
    """What a run of this command is called if nobody names it: its program, or the script or module of an older worker."""
    names = {command[0].rpartition("/")[2]}
    if len(command) > 2 and command[1] == "-m":
        names.add(command[2].rpartition(".")[2])
    elif len(command) > 1:
        names.add(command[1].rpartition("/")[2])
    return names


def begins(text: str, run: str) -> bool:
    """Whether ``run`` is the beginning of a name or title; where a list has cut it short, its beginning and its end."""
    begin, cut, end = run.partition(CUT)
    return text.startswith(begin) and (not cut or (text.endswith(end) and len(text) > len(begin) + len(end)))


def choose(run: str, found: Sequence[QueuedRunRecord], *, only: bool) -> QueuedRunRecord:
    """Which of the runs that were found ``run`` means: its id, else its name, else what a list shows as that, else the
    beginning of one of these alone."""
    newest_first = sorted({one.run_id: one for one in found}.values(), key=lambda one: -one.submit_seq)
    for record in newest_first:
        if record.run_id == run:
            return record
    for known in ([one.name for one in newest_first], [title_of(one) for one in newest_first]):
        same = [record for record, text in zip(newest_first, known) if text == run]
        if same:
            return _newest(run, same, only=only)
    return _begun(run, newest_first, only=only)


def _begun(run: str, newest_first: Sequence[QueuedRunRecord], *, only: bool) -> QueuedRunRecord:
    """The run that the beginning of an id means, or of one name alone that any number of runs bear."""
    by_id = [one for one in newest_first if _PREFIX.match(run) and one.run_id.startswith(run)]
    by_name: dict[str, list[QueuedRunRecord]] = {}
    for record in newest_first:
        text = title_of(record)
        if run and record not in by_id and (begins(text, run) or begins(record.name, run)):
            by_name.setdefault(text, []).append(record)
    if by_name and not by_id and len(by_name) == 1:
        (same,) = by_name.values()
        return _newest(run, same, only=only)
    if len(by_id) == 1 and not by_name:
        return by_id[0]
    candidates = by_id + [same[0] for same in by_name.values()]
    if candidates:
        advice = "give more of it" if by_name else "give more of the id"
        raise TrainshedError(
            ErrorCode.CONFLICT, f"several runs begin with {run!r}; {advice}: {_listed(candidates, by_name)}"
        )
    raise TrainshedError(
        ErrorCode.NOT_FOUND, f"no run has the id or the name {run!r}. See which there are: trainshed ls --all"
    )


def _newest(run: str, same: Sequence[QueuedRunRecord], *, only: bool) -> QueuedRunRecord:
    """The newest of those of one name. Raises CONFLICT where there must be no other."""
    if len(same) == 1 or not only:
        return same[0]
    raise TrainshedError(
        ErrorCode.CONFLICT,
        f"several runs are named {title_of(same[0])!r}; say which one by its id. The newest: {_listed(same)}",
    )


def _listed(records: Sequence[QueuedRunRecord], by_name: object = None) -> str:
    """Ids and statuses; with names where these tell them apart."""
    return ", ".join(
        f"{record.run_id} ({f'{title_of(record):.40}, ' if by_name else ''}{record.status})"
        for record in records[:SHOWN]
    )
