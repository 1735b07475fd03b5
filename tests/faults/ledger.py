"""A second, tiny reading of the log: who holds which slot, told from the events' JSON alone.

Owns I2 and "one attempt a run at a time" as seen in the log; must not use the project's own `evolve`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

ENDS = frozenset({"completed", "failed", "cancelled", "timed_out"})


class Violation(NamedTuple):
    """What must hold and does not. `seq` is the log's, 0 where none belongs to it."""

    invariant: str
    what: str
    seq: int = 0


class Attempt(NamedTuple):
    """A grant that counts."""

    node: str
    incarnation: str
    slots: tuple[int, ...]


class Ledger:
    """Fed with every event in order. `attempts` and `ended` are attempts by (run id, number)."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.live: dict[tuple[str, int], Attempt] = {}
        self.ended: set[tuple[str, int]] = set()
        self.told_ended: set[tuple[str, int]] = set()
        """Those whose end is their own agent's word: its tree is gone then."""
        self.grants = 0
        self.epoch = 0
        self.elected = ""
        self._last: dict[str, int] = {}
        self._slots: dict[tuple[str, int], tuple[str, int]] = {}

    def take(self, seq: int, subject: str, body: Mapping[str, Any]) -> None:
        """One event as it is stored."""
        tokens = subject.split(".")
        _, _, _, _, role, kind, node = tokens
        data = body["data"]
        if kind == "elected":
            self.epoch, self.elected = seq, data["name"]
        elif kind == "dispatched" and data["epoch"] == self.epoch:
            self._grant(seq, data)
        elif kind in ENDS:
            key = (data["run_id"], data.get("attempt", 0))
            attempt = self.live.get(key)
            if attempt is None:
                if kind == "cancelled" and role == "dispatcher" and data.get("epoch") == self.epoch:
                    self._last[key[0]] = max(key[1], self._last.get(key[0], 0))  # of a queued run: no grant
                return
            if role == "agent" and node == attempt.node:
                self.told_ended.add(key)
                self._end(key)
            elif role == "dispatcher" and data.get("epoch") == self.epoch:
                self._end(key)
        elif kind == "node_removed":
            gone = (data["node"], data["incarnation"])
            for key in [k for k, a in self.live.items() if (a.node, a.incarnation) == gone]:
                self._end(key)

    def _grant(self, seq: int, data: Mapping[str, Any]) -> None:
        key = (data["run_id"], data["attempt"])
        before = self._last.get(key[0], 0)
        if key[1] != before + 1:
            self._say("I3", f"attempt {key[1]} of {key[0]} was granted after attempt {before}", seq)
        elif (key[0], before) in self.live:
            self._say("I3", f"attempt {key[1]} of {key[0]} was granted while attempt {before} is live", seq)
        self._last[key[0]] = key[1]
        self.grants += 1
        for index in data["slots"]:
            slot = (data["node"], index)
            if slot in self._slots:
                self._say("I2", f"slot {slot} was granted to {key} while {self._slots[slot]} held it", seq)
            self._slots[slot] = key
        self.live[key] = Attempt(data["node"], data["incarnation"], tuple(data["slots"]))

    def _end(self, key: tuple[str, int]) -> None:
        attempt = self.live.pop(key)
        self.ended.add(key)
        for index in attempt.slots:
            if self._slots.get((attempt.node, index)) == key:
                del self._slots[attempt.node, index]

    def _say(self, invariant: str, what: str, seq: int) -> None:
        self.violations.append(Violation(invariant, what, seq))
