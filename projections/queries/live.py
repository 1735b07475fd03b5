"""All that is live at a committed moment, as the fold's own State, made of the tables' rows.

Owns how that is read at the cost of what changed since it was read last; knows no scheduler.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, select

from events.state import Run, State
from projections.read_model import tables
from projections.read_model.folds import node_of, run_of

_MOMENT = select(tables.checkpoint.c.seq, tables.checkpoint.c.state_hash)
_RUNS = select(
    tables.runs.c.submit_seq, tables.runs.c.run_id, tables.runs.c.fold, tables.runs.c.config
).where(tables.IS_LIVE)
_NODES = select(tables.nodes.c.fold)


class _Read(NamedTuple):
    moment: tuple[int, str]
    runs: dict[str, tuple[int, str, Run]]
    state: State


class Live:
    """What was read last is kept: the same moment's is not read again, nor is a run whose fold has not changed.

    For any number of threads: what it gives out does not change any more.
    """

    def __init__(self) -> None:
        self._last = _Read((0, ""), {}, State())

    def state(self, connection: Connection) -> State:
        """Nodes and live runs at this transaction's moment."""
        at = connection.execute(_MOMENT).one_or_none()
        moment = (0, "") if at is None else (at.seq, at.state_hash)
        last = self._last
        if last.moment != moment:
            last = self._last = self._read(connection, moment, last.runs)
        return last.state

    def _read(
        self, connection: Connection, moment: tuple[int, str], before: dict[str, tuple[int, str, Run]]
    ) -> _Read:
        state, runs = State(), {}
        for fold in connection.execute(_NODES).scalars():
            state.put_node(node_of(fold))
        for submit_seq, run_id, fold, config in connection.execute(_RUNS):
            known = before.get(run_id)
            if known is None or known[:2] != (submit_seq, fold):
                known = (submit_seq, fold, run_of(fold, run_id, submit_seq, config))
            runs[run_id] = known
            state.put_run(known[2])
        return _Read(moment, runs, state)
