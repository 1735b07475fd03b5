"""What the log says of the files that attempts left: of which attempt, on which node, and by which event.

Owns how that is kept while a log is replayed (in a temporary database: there may be millions); reads no file and asks nobody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from events.codec import StoredEvent
from events.types import (
    Artifact,
    Artifacts,
    ArtifactsHashed,
    AttemptEnd,
    Completed,
    Dispatched,
    NodeJoined,
    OutputBytes,
)

OUTPUT = ("stdout", "stderr")
ARTIFACTS = "artifacts/"
LIST = "artifacts.json"
UNNAMED = "\ufffd"
"""Stands in a path for what is no UTF-8: no file is found by it."""


class ArtifactsList(msgspec.Struct, frozen=True):
    """artifacts.json, as the agent writes it."""

    artifacts: list[Artifact]


class LoggedFile(NamedTuple):
    """A file, and what the event at ``seq`` says of it; ``sha256``: None where it says none."""

    file: str
    seq: int
    bytes: int | None
    sha256: str | None = None


class LoggedFacts(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What one event says: an end of output and artifacts, or ArtifactsHashed of these. (Release 0.1 hashed them before the end.)"""

    seq: int
    output: OutputBytes | None = None
    artifacts: Artifacts | None = None


class LoggedAttempt(NamedTuple):
    """An ended attempt that had a worker. ``again``: its run was granted anew, so its artifacts may be another attempt's."""

    node: str
    run_id: str
    attempt: int
    incarnation: str
    facts: tuple[LoggedFacts, ...]
    again: bool

    @property
    def output(self) -> list[LoggedFile]:
        """What is known of its output."""
        return [
            LoggedFile(name, facts.seq, size)
            for facts in self.facts
            if facts.output is not None
            for name in OUTPUT
            if (size := getattr(facts.output, name)) is not None
        ]

    @property
    def artifacts(self) -> list[LoggedFile]:
        """What is known of its artifacts, by each event; none where they may be another attempt's."""
        found: list[LoggedFile] = []
        for facts in () if self.again else self.facts:
            if facts.artifacts is not None:
                found += [
                    LoggedFile(ARTIFACTS + one.path, facts.seq, one.bytes, one.sha256)
                    for one in facts.artifacts.entries
                    if UNNAMED not in one.path
                ]
        return found

    @property
    def list(self) -> LoggedFile | None:
        """The list of all its artifacts, where its hash is known."""
        for facts in () if self.again else self.facts:
            if facts.artifacts is not None and facts.artifacts.sha256 is not None:
                return LoggedFile(LIST, facts.seq, None, facts.artifacts.sha256)
        return None

    @property
    def artifacts_count(self) -> int:
        """How many artifacts it left, by the last word on them."""
        counts = [facts.artifacts.count for facts in self.facts if facts.artifacts is not None]
        return counts[-1] if counts else 0


class LoggedFiles:
    """Feed it every event of the log in order, then ask it node by node."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(
            "", isolation_level=None
        )  # a file without a name, which is gone once it is closed
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE facts (node TEXT, run_id TEXT, attempt INT, incarnation TEXT, body BLOB)"
        )
        self._db.execute("CREATE TABLE again (run_id TEXT PRIMARY KEY, attempt INT) WITHOUT ROWID")
        self._db.execute("BEGIN")
        self._incarnations: dict[str, str] = {}
        self._sorted = False

    def close(self) -> None:
        """Let go of the database."""
        self._db.close()

    def observe(self, stored: StoredEvent) -> None:
        """Keep what an agent says at an attempt's end, and later of its artifacts. (A dispatcher's end says nothing of them.)"""
        event = stored.event
        if isinstance(event, NodeJoined):
            self._incarnations[event.node] = event.incarnation
        elif isinstance(event, Dispatched):
            if event.attempt > 1:
                self._db.execute(
                    "INSERT INTO again VALUES (?, ?) ON CONFLICT DO UPDATE SET attempt = max(attempt, excluded.attempt)",
                    (event.run_id, event.attempt),
                )
        elif isinstance(event, AttemptEnd):
            if event.output is not None or event.duration_s is not None:  # else no worker was started
                artifacts = event.artifacts if isinstance(event, Completed) else None
                self._keep(
                    stored, event.run_id, event.attempt, LoggedFacts(stored.seq, event.output, artifacts)
                )
        elif isinstance(event, ArtifactsHashed):
            facts = LoggedFacts(stored.seq, None, event.artifacts)
            self._keep(stored, event.run_id, event.attempt, facts)

    def _keep(self, stored: StoredEvent, run_id: str, attempt: int, facts: LoggedFacts) -> None:
        node = stored.subject.node
        row = (node, run_id, attempt, self._incarnations.get(node, ""), msgspec.msgpack.encode(facts))
        self._db.execute("INSERT INTO facts VALUES (?, ?, ?, ?, ?)", row)

    def counts(self) -> dict[str, int]:
        """How many attempts there are of each node, by its name."""
        self._sort()
        attempts = "SELECT DISTINCT node, run_id, attempt FROM facts"
        return dict(self._db.execute(f"SELECT node, count(*) FROM ({attempts}) GROUP BY node ORDER BY node"))

    def of_node(self, node: str) -> Iterator[LoggedAttempt]:
        """The attempts of a node, run by run; as few in memory as are asked for."""
        self._sort()
        rows = self._db.execute(
            "SELECT facts.run_id, facts.attempt, incarnation, body, coalesce(again.attempt, 0) FROM facts "
            "LEFT JOIN again ON again.run_id = facts.run_id WHERE node = ? "
            "ORDER BY facts.run_id, facts.attempt, facts.rowid",
            (node,),
        )
        for (run_id, attempt), group in groupby(rows, _ref):
            of_attempt = list(group)
            facts = tuple(_DECODER.decode(row[3]) for row in of_attempt)
            yield LoggedAttempt(node, run_id, attempt, of_attempt[0][2], facts, of_attempt[0][4] > attempt)

    def _sort(self) -> None:
        if not self._sorted:
            self._sorted = True
            self._db.execute("CREATE INDEX by_attempt ON facts (node, run_id, attempt)")


_DECODER = msgspec.msgpack.Decoder(LoggedFacts)


def _ref(row: tuple[Any, ...]) -> tuple[str, int]:
    return row[0], row[1]
