"""The projector's answers about runs: the read model's rows, and beside each PENDING one why it waits.

Owns that the two are put together and the JSON of it; knows neither SQL nor why a run waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from events.state import State
from projections.queries.answers import FoundOne, FoundRun, FoundRuns
from services.scheduling.explain import Explainer
from trainshed_client.records import Wait, WaitsFor
from trainshed_client.rendering import waiting as rendering
from trainshed_client.times import with_texts

EXPLAINED = 10
"""So many entries of the timeline `run.explain` bears, the last ones."""
KEPT_NS = 1_000_000_000
"""So long a decision stands for the same state: the pages of one listing are asked for within it."""


class WaitingRuns:
    """Puts them together. The clock (ns) is passed in; for any number of threads."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._last: tuple[State, int, Explainer] | None = None

    def listing(self, found: FoundRuns) -> dict[str, Any]:
        """``run.list``."""
        answer: dict[str, Any] = {
            "v": 1,
            "seq": found.seq,
            "runs": [self._record(one, found.live) for one in found.runs],
        }
        return answer if found.total is None else {**answer, "total": found.total}

    def run(self, found: FoundOne) -> dict[str, Any]:
        """``run.get``."""
        return {
            "v": 1,
            "seq": found.seq,
            "run": self._record(found.run, found.live),
            "config": msgspec.Raw(found.config),
            "attempts": found.attempts,
            "timeline": found.timeline,
        }

    def explain(self, found: FoundOne) -> dict[str, Any]:
        """``run.explain``."""
        answer: dict[str, Any] = {"v": 1, "seq": found.seq, "run": self._record(found.run, found.live)}
        if found.live is not None and found.run.waits is not None:
            waiting = self._explainer(found.live).explain(found.live.runs[found.run.waits])
            answer["waiting"] = with_texts(msgspec.structs.replace(waiting, text=rendering.text(waiting)))
        return {**answer, "timeline": found.timeline[-EXPLAINED:]}

    def _record(self, found: FoundRun, live: State | None) -> msgspec.Raw:
        if found.waits is None or live is None:
            return msgspec.Raw(found.record)
        wait = self._explainer(live).wait_of(live.runs[found.waits])
        beside = msgspec.json.encode(_Beside(WaitsFor(reason=wait.reason, text=rendering.text(wait)), wait))
        return msgspec.Raw(found.record[:-1] + b"," + beside[1:])

    def _explainer(self, live: State) -> Explainer:
        now_ns, last = self._clock(), self._last
        if last is not None and last[0] is live and 0 <= now_ns - last[1] < KEPT_NS:
            return last[2]
        explainer = Explainer(live, now_ns, None if last is None else last[2])
        self._last = (live, now_ns, explainer)
        return explainer


class _Beside(msgspec.Struct, frozen=True):
    waits_for: WaitsFor
    waiting: Wait
