"""What a witness keeps in the state folder, each file written whole: a kill leaves the old one or the new one.

Owns ``witness.json``, ``checkpoint``, ``checkpoints`` and ``objections.jsonl`` in ``<state>/witness``; everything here
blocks and raises OSError.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from projections.transparency.checkpoint import SignedHead
from projections.transparency.note import bad
from services.agent.witness.values import LogAcceptance, Trust
from services.logging import get_logger
from trainshed_client.endpoint import write_private
from trainshed_client.errors import TrainshedError
from trainshed_client.os_errors import cause

_log = get_logger("agent")

TRUST_FILE = "witness.json"
LAST_FILE = "checkpoint"
HOURLY_FILE = "checkpoints"
OBJECTIONS_FILE = "objections.jsonl"
HOURS_KEPT = 1_000
"""From then on every second one of the older half goes, so that the oldest stay, ever farther apart."""
MAX_OBJECTIONS_BYTES = 4 << 20


class Noted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of objections.jsonl. ``what``: objected, accepted or new_key; ``kept`` and ``seen``: whole checkpoints; ``event``:
    the sequence of one that this node did not say."""

    v: int
    time: str
    what: str
    seen: str = ""
    vkey: str = ""
    kept: str | None = None
    kind: str | None = None
    text: str | None = None
    event: int | None = None
    accepted: LogAcceptance | None = None


class Keeping:
    """One witness's files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def trust(self, origin: str) -> Trust:
        """What was kept of this log; nothing at the first start. What cannot be used is set aside, with an ERROR."""
        path = self._folder / TRUST_FILE
        try:
            kept = _read(path.read_bytes())
        except FileNotFoundError:
            return Trust(origin=origin)
        except (msgspec.MsgspecError, RecursionError, TrainshedError) as error:
            why = cause(error)
        else:
            if kept.origin == origin:
                return kept
            why = f"it is of {kept.origin}"
            with contextlib.suppress(
                FileNotFoundError
            ):  # in one file with this log's `audit verify` could not take them
                _set_aside(self._folder / HOURLY_FILE)
        _log.error(
            "what this node kept as a witness cannot be used: it trusts the next checkpoint anew",
            reason=why,
            kept=str(_set_aside(path)),
        )
        return Trust(origin=origin)

    def keep(self, trust: Trust) -> None:
        """Keep it, and its checkpoint once more for people."""
        write_private(self._folder / TRUST_FILE, msgspec.json.encode(trust) + b"\n")
        if trust.kept is not None:
            write_private(self._folder / LAST_FILE, trust.kept.note.encode())

    def keep_hourly(self, note: str) -> None:
        """Add a checkpoint to those of every hour, which `audit verify --against` reads, unless it is the last of them."""
        path = self._folder / HOURLY_FILE
        try:
            before = path.read_bytes().decode().split("\n\n\n")
        except FileNotFoundError:
            before = []
        except UnicodeDecodeError as error:
            before = []
            _log.error(
                "the checkpoints of every hour cannot be read", reason=str(error), kept=str(_set_aside(path))
            )
        notes = [each.strip("\n") for each in before if each.strip()]
        if notes[-1:] == [note.strip("\n")]:
            return
        notes = thinned([*notes, note.strip("\n")])
        write_private(path, "".join(f"{each}\n\n\n" for each in notes).encode())

    def object(self, noted: Noted, trust: Trust) -> None:
        """Keep an objection, and the last checkpoint that fits beside those of every hour. Killed in between it objects
        once more, to the next checkpoint."""
        self.note(noted)
        if trust.kept is not None:
            self.keep_hourly(trust.kept.note)
        self.keep(trust)

    def begin_anew(self, noted: Noted) -> None:
        """The log was accepted: its checkpoints of every hour before that are kept under another name."""
        assert noted.accepted is not None
        self.note(noted)
        path = self._folder / HOURLY_FILE
        before = path.with_name(f"{HOURLY_FILE}.before-{noted.accepted.seq}")
        if path.exists() and not before.exists():  # else it was killed in between, and begins anew once more
            os.replace(path, before)

    def note(self, noted: Noted) -> None:
        """Add a line to objections.jsonl; of a long file the oldest half goes first."""
        path = self._folder / OBJECTIONS_FILE
        try:
            before = path.read_bytes()
        except FileNotFoundError:
            before = b""
        if len(before) > MAX_OBJECTIONS_BYTES:
            before = before[len(before) // 2 :].partition(b"\n")[2]
        write_private(path, before + msgspec.json.encode(noted) + b"\n")


def _read(data: bytes) -> Trust:
    """Raises MsgspecError, RecursionError and TrainshedError."""
    trust = msgspec.json.decode(data, type=Trust)
    if (kept := trust.kept) is not None:
        head = SignedHead.parse(kept.note).head
        if (head.size, head.root) != (kept.size, kept.root):
            raise bad(
                f"is of {head.size} leaves, and {kept.size} are kept, or their root is another", "checkpoint"
            )
    return trust


def _set_aside(path: Path) -> Path:
    old = path.with_name(f"{path.name}.old")
    os.replace(path, old)
    return old


def thinned(notes: list[str]) -> list[str]:
    """So many as are kept, in their order: the newest half whole."""
    if len(notes) <= HOURS_KEPT:
        return notes
    older, newer = notes[: HOURS_KEPT // 2], notes[HOURS_KEPT // 2 :]
    return [*older[::2], *newer]
