"""Which run a word of a person means: an id, the unique beginning of one, or a name.

Owns that choice and the errors where it cannot be made; knows nothing of how runs are found.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.records import QueuedRunRecord

SHOWN = 5
"""So many candidates an error lists."""

RUN_ID = r"[a-z2-7]{26}"
"""A run id, as a pattern: 26 characters of lower-case base32."""
_RUN_ID = re.compile(rf"{RUN_ID}\Z")
_PREFIX = re.compile(r"[a-z2-7]{1,26}\Z")


def is_run_id(text: str) -> bool:
    """True for a whole run id."""
    return _RUN_ID.match(text) is not None


def choose(run: str, found: Sequence[QueuedRunRecord], *, only: bool) -> QueuedRunRecord:
    """Which of the runs that were found ``run`` means: its id, else its name, else a prefix of one id alone."""
    newest_first = sorted({one.run_id: one for one in found}.values(), key=lambda one: -one.submit_seq)
    for record in newest_first:
        if record.run_id == run:
            return record
    named = [record for record in newest_first if record.name == run]
    if len(named) == 1 or (named and not only):
        return named[0]
    if named:
        raise TrainshedError(
            ErrorCode.CONFLICT,
            f"several runs are named {run!r}; say which one by its id. The newest: {_listed(named)}",
        )
    prefixed = [record for record in newest_first if record.run_id.startswith(run) and _PREFIX.match(run)]
    if len(prefixed) == 1:
        return prefixed[0]
    if prefixed:
        raise TrainshedError(
            ErrorCode.CONFLICT, f"several runs begin with {run!r}; give more of the id: {_listed(prefixed)}"
        )
    raise TrainshedError(
        ErrorCode.NOT_FOUND, f"no run has the id or the name {run!r}. See which there are: trainshed ls --all"
    )


def _listed(records: Sequence[QueuedRunRecord]) -> str:
    return ", ".join(f"{record.run_id} ({record.status})" for record in records[:SHOWN])
