"""A read model's tables as plain values, for comparing two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from projections.queries.answers import Queries
from projections.queries.listing import run_query
from projections.read_model import tables
from projections.read_model.database import Database
from projections.read_model.projector import Projector
from projections.read_model.rows import row_from
from projections.read_model.state_hash import MODULUS, digest
from services.projector.waiting import WaitingRuns
from trainshed_client.direct_get import Message

LOG_ID = "log-1"


def memory() -> Database:
    """An empty database in memory."""
    return Database("sqlite:///:memory:")


def fold(database: Database, batches: Iterable[Sequence[Message]], *, reopen: bool = False) -> None:
    """Apply batches; with ``reopen`` each by a projector of its own, as after a restart."""
    projector = Projector.open(database, LOG_ID, 10**9)
    for batch in batches:
        projector.apply(batch)
        if reopen:
            projector.close()
            projector = Projector.open(database, LOG_ID, 10**9)
    projector.close()


def dump(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table but `frames`, in the order of keys: which of these are whole depends on when it was started."""
    with database.reading() as connection:
        return {
            table.name: [
                dict(row)
                for row in connection.execute(table.select().order_by(*table.primary_key.columns)).mappings()
            ]
            for table in tables.metadata.sorted_tables
            if table is not tables.frames
        }


def recomputed_hash(dumped: dict[str, list[dict[str, Any]]]) -> str:
    """The state hash from the rows alone."""
    total = sum(digest(row_from(name, row)) for name in tables.HASHED for row in dumped[name])
    return f"{total % MODULUS:064x}"


def kept_hash(dumped: dict[str, list[dict[str, Any]]]) -> str:
    """The state hash that the checkpoint holds."""
    return str(dumped["checkpoint"][0]["state_hash"])


class Asked:
    """What a projector answers about the runs of a database, decoded."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self.queries = Queries(database)
        self._waiting = WaitingRuns(clock)

    def runs(self, **query: Any) -> dict[str, Any]:
        """``run.list``."""
        return decoded(self._waiting.listing(self.queries.runs(run_query(**query))))

    def run(self, run_id: str) -> dict[str, Any]:
        """``run.get``."""
        return decoded(self._waiting.run(self.queries.run(run_id)))

    def explain(self, run_id: str) -> dict[str, Any]:
        """``run.explain``."""
        return decoded(self._waiting.explain(self.queries.run(run_id)))


def decoded(answer: dict[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(answer))
    return decoded
