"""The oracle of time travel: the log up to a sequence, folded into an empty read model, and asked the same questions.

Owns how a moment is replayed and which columns nobody can know of it any more; knows nothing of how the past is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from events.times import rfc3339
from projections.read_model import reports
from projections.read_model.projector import Projector
from tests.support.read_model import LOG_ID, Asked, decoded, memory
from trainshed_client.direct_get import Message


class ReplayedAt:
    """Answers as a projector gives them that has read the log up to a moment and not one heartbeat.

    ``at`` goes from one moment to a later one by folding what lies between; to an earlier one from the beginning. The
    clock, by which a retry is "in 12 s", stands where the moment's last event was stored.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        assert [message.seq for message in messages] == list(range(1, len(messages) + 1)), "a whole log"
        self._messages = messages
        self._open()

    def _open(self) -> None:
        self._database = memory()
        self._projector = Projector.open(self._database, LOG_ID, 10**9)
        self._asked = Asked(self._database, lambda: self.stored_ns)

    @property
    def seq(self) -> int:
        """The moment."""
        return self._projector.seq

    @property
    def stored_ns(self) -> int:
        """When its last event was stored."""
        return self._messages[self.seq - 1].stored_ns

    @property
    def time(self) -> str:
        """The same as answers have it."""
        return rfc3339(self.stored_ns)

    def at(self, seq: int) -> ReplayedAt:
        """Itself, at this moment."""
        assert 1 <= seq <= len(self._messages), f"the log has no event {seq}"
        if seq < self.seq:
            self.close()
            self._open()
        self._projector.apply(self._messages[self.seq : seq])
        return self

    def close(self) -> None:
        """Let go of the database."""
        self._projector.close()
        self._database.close()

    def runs(self, **query: Any) -> dict[str, Any]:
        """``run.list``."""
        return self._asked.runs(**query)

    def run(self, run_id: str) -> dict[str, Any]:
        """``run.get``."""
        return self._asked.run(run_id)

    def explain(self, run_id: str) -> dict[str, Any]:
        """``run.explain``."""
        return self._asked.explain(run_id)

    def slots(self) -> dict[str, Any]:
        """``slot.list``."""
        return decoded(self._asked.queries.slots())

    def nodes(self) -> dict[str, Any]:
        """``node.list``."""
        return decoded(self._asked.queries.nodes())

    def state_hash(self) -> str:
        """``state_hash`` of ``audit.at``."""
        return str(self._asked.queries.health()["state_hash"])


_COLUMNS: dict[str, tuple[str, ...]] = {
    "runs": reports.OF_RUN,
    "attempts": reports.OF_ATTEMPT,
    "slots": reports.OF_SLOT,
    "nodes": reports.OF_NODE,
}
_EMPTY: dict[str, Any] = {"metrics": {}, "passed_over": {}}


def without_heartbeats(answer: dict[str, Any]) -> dict[str, Any]:
    """What was answered at a moment, as it is answered of that moment later: without what only heartbeats told.

    What a worker told last belongs to the end of its attempt and stays. ``updated_at`` goes altogether: of what is
    live, heartbeats move it.
    """
    cleared = {**answer}
    for key, columns in _COLUMNS.items():
        if key in answer:
            cleared[key] = [
                record if record.get("ended_at") else _without(record, columns) for record in answer[key]
            ]
    if "run" in answer and not answer["run"]["ended_at"]:
        cleared["run"] = _without(answer["run"], reports.OF_RUN)
    return cleared


def _without(record: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    cleared = {name: _EMPTY.get(name) if name in columns else value for name, value in record.items()}
    cleared.pop("updated_at", None)
    return cleared
