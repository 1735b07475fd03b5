"""The log against checkpoints that were kept from before: does its tree still begin with theirs, and where does it not?

Owns reading such a file and the comparison; verifies no signature: who kept it knows where it came from, and who hands in
another's word has verified it (`witnessed.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from projections.transparency.checkpoint import SignedHead, TreeHead, origin_of
from projections.transparency.fold import TILE_WIDTH, TreeFold
from projections.transparency.note import bad
from projections.transparency.tiles import TileMissing, Tiles
from projections.transparency.tree import EMPTY_ROOT, HASH_BYTES
from trainshed_client.direct_get import Message
from trainshed_client.errors import TrainshedError

OPTION = "--against"


class Misfit(msgspec.Struct, frozen=True):
    """What no longer is as it was kept, and at which sequence."""

    seq: int
    message: str


class KeptHead(msgspec.Struct, frozen=True):
    """A checkpoint from before. ``by``: whose word it is, as it stands behind it in a sentence; empty: a file's."""

    head: TreeHead
    by: str = ""


def read_checkpoints(data: bytes, file: str) -> list[SignedHead]:
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
    return sorted((_parsed(note, file) for note in notes), key=lambda signed: signed.head.size)


def _parsed(note: str, file: str) -> SignedHead:
    try:
        return SignedHead.parse(note, OPTION)
    except TrainshedError as error:
        expected = "expected: what `trainshed audit checkpoint` prints"
        raise bad(
            f"{file} has something else than checkpoints ({error.message}); {expected}", OPTION
        ) from None


def of_this_log(signed: Iterable[SignedHead], log_id: str) -> None:
    """Raises TrainshedError (invalid) where a checkpoint of a file is of another log."""
    for each in signed:
        if each.head.origin != origin_of(log_id):
            raise bad(
                f"is a checkpoint of {each.head.origin!r:.100}; expected: {origin_of(log_id)!r}, this log",
                OPTION,
            )


class Against:
    """Feed it every message of the log in order; then ask for ``misfits``. ``tiles``: those that were kept as well; ``found``:
    misfits that are known before, and are named with the others."""

    def __init__(
        self, kept: Iterable[KeptHead], tiles: Tiles | None = None, found: Sequence[Misfit] = ()
    ) -> None:
        self._found = found
        self._kept = sorted(kept, key=lambda one: one.head.size)
        self._tiles = tiles
        self._fold = TreeFold()
        self._next = 0
        self._fitting: set[TreeHead] = set()
        self._fits = 0
        self._misfits: dict[str, tuple[KeptHead, int]] = {}
        """The first of each whose word is kept, and the size of the last before it that fits."""
        self._differs: int | None = None

    @property
    def size(self) -> int:
        """The size of the largest checkpoint: so many events are needed."""
        return max((one.head.size for one in self._kept), default=0)

    @property
    def folded(self) -> int:
        """How many events were fed."""
        return self._fold.size

    def take(self, messages: Sequence[Message]) -> None:
        """Fold what comes next, and compare wherever a checkpoint was made."""
        start = 0
        while start < len(messages):
            self._compare_here()
            end = len(messages)
            if self._next < len(self._kept):
                end = min(end, start + self._kept[self._next].head.size - self._fold.size)
            before = self._fold.size
            self._fold.extend(messages[start:end])
            self._look_at_tiles()
            if self._fold.size == before:  # a gap: nothing follows
                return
            start = end

    def misfits(self) -> list[Misfit]:
        """What does not fit, the log having been fed whole."""
        found = list(self._found)
        self._compare_here()
        first = self._fold.first or 1
        if self._fold.stopped is not None:
            found.append(Misfit(self._fold.stopped, f"the log has no event {self._fold.stopped}"))
        for one, fits in self._misfits.values():
            start, end = first + fits, first + one.head.size - 1
            here = f"one of the events {start} to {end} is not what it was"
            if start > end:
                start, here = end, "who has it was shown another log"
            elif self._differs is not None and start <= self._differs <= end:
                start = self._differs
                here = f"event {start} is not what it was: its hash in the kept tiles is another"
            text = f"the checkpoint of {one.head.size} leaves{one.by} no longer fits; the last that does has {fits}: {here}"
            found.append(Misfit(start, text))
        if self._differs is not None and not self._misfits:
            found.append(Misfit(self._differs, f"event {self._differs} is not what the kept tiles have"))
        end = first + self._fold.size
        for one in {one.by: one for one in self._kept[self._next :]}.values():
            if self._fold.stopped is not None:
                text = f"the checkpoint of {one.head.size} leaves{one.by} no longer fits: the tree ends before event {end}, which is gone"
            else:
                text = (
                    f"the log has {self._fold.size} events, the checkpoint{one.by} has {one.head.size}: what was stored from "
                    f"{end} on is gone"
                )
            found.append(Misfit(end, text))
        return found

    def fits(self, head: TreeHead) -> bool:
        """Whether one that was handed in is the log's, which was fed whole."""
        return head in self._fitting

    def _compare_here(self) -> None:
        while self._next < len(self._kept) and self._kept[self._next].head.size <= self._fold.size:
            one = self._kept[self._next]
            self._next += 1
            root = EMPTY_ROOT if one.head.size == 0 else self._fold.root  # folded up to just there
            if root == one.head.root:
                self._fits = one.head.size
                self._fitting.add(one.head)
            else:
                self._misfits.setdefault(one.by, (one, self._fits))

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
