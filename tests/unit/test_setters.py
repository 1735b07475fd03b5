"""Which event set what a row holds: told from one fold in long batches, as it comes out event by event."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bench.log_maker import LogMaker
from events.change import Change
from events.codec import StoredEvent, decode
from projections.audit.comparison import replayed_rows
from projections.audit.setters import Key, SetBy, Setters
from projections.read_model.database import Database
from projections.read_model.projector import Projector
from projections.read_model.rows import key_of
from projections.read_model.state_hash import hashed_fields
from projections.read_model.tables import HASHED
from tests.support.random_log import RandomLog
from tests.support.read_model import memory
from trainshed_client.direct_get import Message

Rows = dict[tuple[str, Key], dict[str, Any]]
ROWS = ("runs", "attempts", "slots", "nodes")


def rows_of(database: Database) -> Rows:
    """All rows there, as they are hashed."""
    with database.reading() as connection:
        return {
            (table, key_of(row)): hashed_fields(row)
            for table in HASHED
            if table in ROWS
            for row in replayed_rows(table, connection)
        }


class OneByOne:
    """What a reader sees who looks at all rows after each event."""

    def __init__(self, messages: list[Message]) -> None:
        self.columns: dict[tuple[str, Key], dict[str, SetBy]] = {}
        self.made: dict[tuple[str, Key], SetBy] = {}
        database = memory()
        projector = Projector.open(database, "log", len(messages))
        before: Rows = {}
        for message in messages:
            projector.apply([message])
            stored = decode(message.subject, message.body, message.seq, message.stored_ns)
            after = rows_of(database)
            if isinstance(stored, StoredEvent):
                self._compare(before, after, SetBy(stored.seq, stored.subject.type))
            else:
                assert before == after
            before = after
        self.last = before
        projector.close()

    def _compare(self, before: Rows, after: Rows, by: SetBy) -> None:
        for row in before.keys() ^ after.keys():
            self.made[row], self.columns[row] = by, {}
        for row, fields in after.items():
            old = before.get(row, {})
            for name, value in fields.items():
                if name not in old or old[name] != value:
                    self.columns[row][name] = by


def watched(messages: list[Message], rows: set[tuple[str, Key]], chance: random.Random) -> Setters:
    """The same from one fold in batches."""
    setters = Setters(rows)
    projector = Projector.open(memory(), "log", len(messages))
    projection = projector.projection

    def observe(stored: StoredEvent, change: Change) -> None:
        setters.observe(stored, change, projection)

    at = 0
    while at < len(messages):
        size = chance.randint(1, 120)
        projector.apply(messages[at : at + size], observe)
        at += size
    projector.close()
    return setters


@pytest.mark.parametrize("seed", range(12))
def test_who_set_a_column_is_as_it_comes_out_event_by_event(seed: int) -> None:
    made = RandomLog(seed)
    while made.seq < 250:
        made.grow()
    expected = OneByOne(made.messages)
    found = watched(made.messages, set(expected.made), random.Random(seed))
    for row, by in expected.made.items():
        assert found.of(*row, None) == by, row
        for column in expected.last.get(row, ()):
            assert found.of(*row, column) == expected.columns[row][column], (row, column)
    assert {table for table, _ in expected.made} == set(ROWS)


def test_of_a_timeline_it_is_the_entrys_event_and_of_what_never_was_none() -> None:
    made = LogMaker()
    made.elect()
    made.join()
    run_id = made.submit()
    at = made.dispatch(run_id)
    rows: set[tuple[str, Key]] = {("timeline", (run_id, at)), ("runs", ("never",))}
    found = watched(made.messages, rows, random.Random(1))
    assert found.of("timeline", (run_id, at), "data") == SetBy(at, "dispatched")
    assert found.of("timeline", (run_id, at), None) == SetBy(at, "dispatched")
    assert found.of("runs", ("never",), None) is None
    assert found.of("runs", (run_id,), "status") is None, "it was not watched"
