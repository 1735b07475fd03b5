"""Proofs of the log's tree, from what the projector committed of it: its right edge and the full tiles.

Owns how stored hashes become answers; knows nothing of who asks, and signs nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from projections.read_model import tables
from projections.read_model.database import Database
from projections.transparency.fold import RightEdge
from projections.transparency.tiles import StoredHashes, TileMissing, Tiles
from projections.transparency.tree import (
    HASH_BYTES,
    consistency_proof,
    inclusion_proof,
    is_extended,
    is_included,
    root_hash,
)
from trainshed_client.errors import ErrorCode, TrainshedError


class StoredTree(msgspec.Struct, frozen=True):
    """The tree as it was committed, and the sequence up to which events were folded."""

    seq: int
    edge: RightEdge

    @property
    def gap(self) -> int | None:
        """The sequence that the log lacks, at which the tree ended; None where it has all."""
        missing = self.edge.first + self.edge.size
        return missing if self.edge.first and missing <= self.seq else None


class Proofs:
    """What the tree's database and tiles prove. Each call is one read transaction. Raises TileMissing where a tile is
    gone or damaged."""

    def __init__(self, database: Database, tiles: Tiles) -> None:
        self._database = database
        self._tiles = tiles

    def tree(self) -> StoredTree:
        """The tree as it is now."""
        at, levels = tables.checkpoint.c, tables.tree.c
        with self._database.reading() as connection:
            stands = connection.execute(tables.checkpoint.select().where(at.id == 1)).one_or_none()
            rows = connection.execute(tables.tree.select().order_by(levels.level)).all()
        if stands is None:
            return StoredTree(0, RightEdge())
        return StoredTree(stands.seq, RightEdge(stands.first_seq, tuple(bytes(row.hashes) for row in rows)))

    def root(self, tree: StoredTree, size: int) -> bytes:
        """The root that the tree had at ``size`` leaves, which it must have had."""
        hashes = self._hashes(tree)
        root, whole = root_hash(size, hashes.at), tree.edge.root
        proof = consistency_proof(size, tree.edge.size, hashes.at)
        if not is_extended(size, root, tree.edge.size, whole, proof):
            raise TileMissing(f"a tile of the tree of {size} leaves is damaged")
        return root

    def root_at(self, tree: StoredTree, size: int) -> bytes:
        """The same of a size that somebody names. Raises TrainshedError (invalid) for one that it did not have."""
        return self.root(tree, _size(size, tree, "size"))

    def consistency(self, first: int, second: int | None) -> dict[str, Any]:
        """What ``audit.consistency`` answers. Raises TrainshedError (invalid)."""
        tree = self.tree()
        second = _size(second, tree, "to")
        if not 0 <= first <= second:
            raise TrainshedError(ErrorCode.INVALID, f"must be a size from 0 to {second}, not {first}", "from")
        first_root, second_root = self.root(tree, first), self.root(tree, second)
        proof = consistency_proof(first, second, self._hashes(tree).at)
        if not is_extended(first, first_root, second, second_root, proof):
            raise TileMissing(f"a tile between {first} and {second} leaves is damaged")
        return {
            "v": 1,
            "seq": tree.seq,
            "from": first,
            "to": second,
            "from_root": _text(first_root),
            "to_root": _text(second_root),
            "proof": _texts(proof),
        }

    def inclusion(self, event: int, size: int | None) -> dict[str, Any]:
        """What ``audit.inclusion`` answers. Raises TrainshedError (invalid)."""
        tree = self.tree()
        size = _size(size, tree, "size")
        first, index = tree.edge.first, event - tree.edge.first
        if not first or not 0 <= index < size:
            held = f"{first} to {first + size - 1}" if size else "none"
            raise TrainshedError(
                ErrorCode.INVALID, f"the tree of {size} leaves has the events {held}, not {event}", "event"
            )
        hashes, root = self._hashes(tree), self.root(tree, size)
        leaf, proof = hashes.at(0, index), inclusion_proof(index, size, hashes.at)
        if not is_included(leaf, index, size, root, proof):
            raise TileMissing(f"a tile beside event {event} is damaged")
        return {
            "v": 1,
            "seq": tree.seq,
            "event": event,
            "index": index,
            "size": size,
            "root": _text(root),
            "leaf": _text(leaf),
            "proof": _texts(proof),
        }

    def unfit(self, tree: StoredTree, *, looked_into: bool) -> list[tuple[int, int]]:
        """The tiles to be made again, from the leaves up: those not there whole; ``looked_into``: and those whose hash is
        not what the tile above has."""
        missing = self._tiles.missing(tree.edge.size)
        if not looked_into:
            return missing
        return sorted({*missing, *self._tiles.damaged(tree.edge)})

    def _hashes(self, tree: StoredTree) -> StoredHashes:
        return StoredHashes(tree.edge, self._tiles.read)


def _size(size: int | None, tree: StoredTree, field: str) -> int:
    whole = tree.edge.size
    if size is None:
        return whole
    if not 0 <= size <= whole:
        raise TrainshedError(ErrorCode.INVALID, f"the tree has {whole} leaves, not {size}", field)
    return size


def _text(data: bytes) -> str:
    assert len(data) == HASH_BYTES
    return base64.b64encode(data).decode()


def _texts(hashes: Sequence[bytes]) -> list[str]:
    return list(map(_text, hashes))
