"""Logs with what each event did when it was written: a log keeps its meaning, whatever ``evolve`` learns later.

Owns the form of a line and how a log is added: `python -m tests.support.folded_logs FILE` reads messages, one JSON object a
line (seq, stored_ns, subject, body), and writes beside each what today's code makes of it, where nothing stands yet.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from events.codec import StoredEvent, decode
from events.evolve import ended_runs_needed, evolve
from events.state import Ended, Run, State

FOLDER = Path(__file__).parents[1] / "folded_logs"
NOTHING: dict[str, Any] = {}


def outcomes(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What each message did: the runs and nodes that it changed, as they stood after it, and the attempts it ended."""
    state, past = State(), dict[str, Run]()
    for line in lines:
        stored = decode(line["subject"], line["body"].encode(), line["seq"], line["stored_ns"])
        if not isinstance(stored, StoredEvent):
            yield NOTHING
            continue
        needed = ended_runs_needed(state, stored)
        change = evolve(state, stored, {run_id: past[run_id] for run_id in needed if run_id in past})
        past.update({each.after.run_id: each.after for each in change.runs})
        yield {
            "runs": {each.after.run_id: _run(past[each.after.run_id]) for each in change.runs},
            "nodes": {name: _node(state, name) for name in sorted(change.nodes)},
            "ended": [[end.run_id, end.attempt.attempt, end.status, end.reason] for end in change.ended],
            "late": change.late is not None,
        }


def _run(run: Run) -> list[Any]:
    reason = run.phase.reason if isinstance(run.phase, Ended) else None
    return [
        run.status,
        run.attempt,
        reason,
        run.tries,
        run.cancel_requested,
        *([list(run.tried)] if run.tried else []),
    ]


def _node(state: State, name: str) -> list[Any] | None:
    node = state.nodes.get(name)
    if node is None:
        return None
    blamed = [one.run_id for one in node.failed_starts]
    return [node.status, node.incarnation, node.drained, len(node.to_stop), *([blamed] if blamed else [])]


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of one log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def add(path: Path) -> None:
    """Write beside each message that has nothing beside it what it does."""
    lines = read(path)
    for line, did in zip(lines, outcomes(lines), strict=True):
        line.setdefault("did", did)
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        add(Path(name))
