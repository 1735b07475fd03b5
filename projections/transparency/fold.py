"""The log's tree as it grows: each stored event a leaf, its index the sequence less the first.

Owns the leaf's encoding, which is frozen, and the right edge; knows no file and no database.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import msgspec

from projections.transparency.tree import HASH_BYTES, node_hash, subtree_hash
from trainshed_client.direct_get import Message

TILE_WIDTH = 256
TILE_BYTES = TILE_WIDTH * HASH_BYTES


def leaf_of(seq: int, stored_ns: int, subject: str, body: bytes) -> bytes:
    """What the tree has of an event. Frozen: docs/contracts/transparency-log.md. (No headers: no reader interprets them, and what is got
    directly or published again bears others.)"""
    return f"trainshed-leaf/v1\n{seq}\n{stored_ns}\n{subject}\n{sha256(body).hexdigest()}\n".encode()


class Tile(msgspec.Struct, frozen=True):
    """A full tile of C2SP's tlog-tiles: the hashes of 256 neighbours, each of the complete subtree of 256^level leaves."""

    level: int
    index: int
    hashes: bytes


class RightEdge(msgspec.Struct, frozen=True):
    """All of a tree that is in no full tile: of each tile level the hashes of its last, partial tile, from the leaves up.

    ``first``: the sequence of the first leaf; 0 while there is none.
    """

    first: int = 0
    levels: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        """How many leaves the tree has."""
        return sum(len(hashes) // HASH_BYTES << 8 * level for level, hashes in enumerate(self.levels))

    @property
    def root(self) -> bytes:
        """The tree's root, from the edge alone."""
        found: bytes | None = None
        for hashes in self.levels:
            at = len(hashes)
            for bit in range(8):
                width = HASH_BYTES << bit
                if len(hashes) & width:
                    at -= width
                    left = subtree_hash(hashes[at : at + width])
                    found = left if found is None else node_hash(left, found)
        return sha256(b"").digest() if found is None else found


class TreeFold:
    """The tree being folded, event by event. ``stopped``: the sequence that is missing in the log, at which it ended."""

    def __init__(self, edge: RightEdge | None = None, seq: int = 0) -> None:
        """``seq``: the last sequence that was folded, of events at all."""
        edge = edge or RightEdge()
        self.first = edge.first
        self.size = edge.size
        self.stopped: int | None = None
        if edge.first and seq != edge.first + edge.size - 1:
            self.stopped = edge.first + edge.size
        self._levels = [bytearray(hashes) for hashes in edge.levels] or [bytearray()]
        self._full: list[Tile] = []
        self._changed = 0

    @property
    def edge(self) -> RightEdge:
        """The right edge as it is now."""
        return RightEdge(self.first, tuple(map(bytes, self._levels)) if self.first else ())

    @property
    def root(self) -> bytes:
        """The root as it is now."""
        return self.edge.root

    def extend(self, messages: Iterable[Message], after: int = 0) -> None:
        """Fold messages, in order; those up to sequence ``after`` are passed over."""
        if self.stopped is not None:
            return
        leaves, expected = self._levels[0], self.first + self.size
        for seq, stored_ns, subject, body in messages:
            if seq <= after:
                continue
            if seq != expected:
                if self.first:
                    self.stopped = expected
                    break
                self.first = seq
            expected = seq + 1
            # leaf_of and leaf_hash in one: this is done for every event of a rebuild
            leaf = f"\x00trainshed-leaf/v1\n{seq}\n{stored_ns}\n{subject}\n{sha256(body).hexdigest()}\n"
            leaves += sha256(leaf.encode()).digest()
            if len(leaves) == TILE_BYTES:
                self.size = expected - self.first
                self._close(0)
        if self.first:
            self.size = expected - self.first

    def take_changes(self) -> tuple[list[Tile], dict[int, bytes]]:
        """The tiles that became full since the last time, and by level what of the edge may differ since then."""
        full, self._full = self._full, []
        changed = (
            {level: bytes(self._levels[level]) for level in range(self._changed + 1)} if self.first else {}
        )
        self._changed = 0
        return full, changed

    def _close(self, level: int) -> None:
        """A level's last tile is full: it goes out, and its hash one level up."""
        hashes = bytes(self._levels[level])
        self._levels[level].clear()
        self._full.append(Tile(level, (self.size >> 8 * (level + 1)) - 1, hashes))
        if level + 1 == len(self._levels):
            self._levels.append(bytearray())
        above = self._levels[level + 1]
        above += subtree_hash(hashes)
        self._changed = max(self._changed, level + 1)
        if len(above) == TILE_BYTES:
            self._close(level + 1)
