"""The log against checkpoints that were kept from before: does its tree still begin with theirs, and where does it not?

Owns reading such a file and the comparison; verifies no signature, since who kept it knows where it came from.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from events.feed import Message
from projections.transparency.checkpoint import SignedHead, TreeHead, origin_of
from projections.transparency.fold import TILE_WIDTH, TreeFold
from projections.transparency.note import bad
from projections.transparency.tiles import TileMissing, Tiles
from projections.transparency.tree import EMPTY_ROOT, HASH_BYTES

OPTION = "--against"


class Misfit(msgspec.Struct, frozen=True):
    """What no longer is as it was kept, and at which sequence."""

    seq: int
    message: str


def read_checkpoints(data: bytes, file: str) -> list[TreeHead]:
    """The checkpoints of a file, one after the other, by size. Raises TrainshedError (invalid)."""
    notes, signed = list[str](), True
    for line in data.decode(errors="replace").splitlines(keepends=True):
        if signed and not line.startswith("— "):
            if not line.strip():
                continue
            notes.append("")
        notes[-1:] = ["".join(notes[-1:]) + line]
        signed = line.startswith("— ")
    if not notes:
        raise bad(f"{file} has no checkpoint; expected: what `trainshed audit checkpoint` prints", OPTION)
    heads = [SignedHead.parse(note, OPTION).head for note in notes]
    return sorted(heads, key=lambda head: head.size)


class Against:
    """Feed it every message of the log in order; then ask for ``misfits``. ``tiles``: those that were kept as well."""

    def __init__(self, heads: Sequence[TreeHead], tiles: Tiles | None = None) -> None:
        self._heads = heads
        self._tiles = tiles
        self._fold = TreeFold()
        self._next = 0
        self._fits = 0
        self._misfit: TreeHead | None = None
        self._differs: int | None = None

    @property
    def size(self) -> int:
        """The size of the largest checkpoint: so many events are needed."""
        return max(head.size for head in self._heads)

    @property
    def folded(self) -> int:
        """How many events were fed."""
        return self._fold.size

    def of_log(self, log_id: str) -> None:
        """Raises TrainshedError (invalid) where a checkpoint is of another log."""
        for head in self._heads:
            if head.origin != origin_of(log_id):
                raise bad(
                    f"is a checkpoint of {head.origin!r:.100}; expected: {origin_of(log_id)!r}, this log",
                    OPTION,
                )

    def take(self, messages: Sequence[Message]) -> None:
        """Fold what comes next, and compare wherever a checkpoint was made."""
        start = 0
        while start < len(messages):
            while self._next < len(self._heads) and self._heads[self._next].size <= self._fold.size:
                self._compare(self._heads[self._next])
                self._next += 1
            end = len(messages)
            if self._next < len(self._heads):
                end = min(end, start + self._heads[self._next].size - self._fold.size)
            before = self._fold.size
            self._fold.extend(messages[start:end])
            self._look_at_tiles()
            if self._fold.size == before:  # a gap: nothing follows
                return
            start = end

    def misfits(self) -> list[Misfit]:
        """What does not fit, the log having been fed whole."""
        found = list[Misfit]()
        while self._next < len(self._heads) and self._heads[self._next].size <= self._fold.size:
            self._compare(self._heads[self._next])
            self._next += 1
        first = self._fold.first or 1
        if self._fold.stopped is not None:
            found.append(Misfit(self._fold.stopped, f"the log has no event {self._fold.stopped}"))
        if self._misfit is not None:
            start, end = first + self._fits, first + self._misfit.size - 1
            here = f"one of the events {start} to {end} is not what it was"
            if self._differs is not None and start <= self._differs <= end:
                start = self._differs
                here = f"event {start} is not what it was: its hash in the kept tiles is another"
            text = f"the checkpoint of {self._misfit.size} leaves no longer fits; the last that does has {self._fits}: {here}"
            found.append(Misfit(start, text))
        elif self._differs is not None:
            found.append(Misfit(self._differs, f"event {self._differs} is not what the kept tiles have"))
        if self._next < len(self._heads):
            head, end = self._heads[-1], first + self._fold.size
            text = f"the log has {self._fold.size} events, the checkpoint {head.size}: what was stored from {end} on is gone"
            found.append(Misfit(end, text))
        return found

    def _compare(self, head: TreeHead) -> None:
        root = EMPTY_ROOT if head.size == 0 else self._fold.root  # folded up to just there
        if root != head.root:
            self._misfit = self._misfit or head
        elif self._misfit is None:
            self._fits = head.size

    def _look_at_tiles(self) -> None:
        full, _ = self._fold.take_changes()
        if self._tiles is None or self._differs is not None:
            return
        for tile in full:
            if tile.level:
                continue
            try:
                kept = self._tiles.read(0, tile.index)
            except TileMissing:
                continue
            for place in range(TILE_WIDTH):
                part = slice(place * HASH_BYTES, (place + 1) * HASH_BYTES)
                if kept[part] != tile.hashes[part]:
                    self._differs = self._fold.first + tile.index * TILE_WIDTH + place
                    return
