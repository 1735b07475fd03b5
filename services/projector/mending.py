"""Tiles that are gone or damaged, made again of the log; and the folder that holds one log's tiles.

Owns reading the log for that; a tile's hash is compared with the tree before it is written.
"""

from __future__ import annotations

import asyncio
import logging
import os
from itertools import groupby
from pathlib import Path

from events.log import EventLog
from projections.queries.proofs import StoredTree
from projections.transparency.fold import TILE_WIDTH, Tile, TreeFold
from projections.transparency.tiles import StoredHashes, TileMissing, Tiles
from projections.transparency.tree import subtree_hash

_log = logging.getLogger("trainshed.projector")

_LOG_ID = "log_id"


def claim(folder: Path, log_id: str) -> None:
    """Make the folder this log's own; what it holds of another log is moved aside. Raises OSError."""
    mark = folder / _LOG_ID
    try:
        other = mark.read_text().strip()
    except FileNotFoundError:
        other = log_id
    if other != log_id:
        kept = folder.with_name(f"{folder.name}.old")
        number = 2
        while kept.exists():
            kept, number = folder.with_name(f"{folder.name}.old{number}"), number + 1
        os.replace(folder, kept)
        _log.warning("%s is of another event log (%s, not %s): it is kept as %s", folder, other, log_id, kept)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not mark.exists():
        mark.write_text(f"{log_id}\n")


async def mend(log: EventLog, tiles: Tiles, tree: StoredTree, unfit: list[tuple[int, int]]) -> None:
    """Make tiles again, from the leaves up. One that the log no longer gives is logged as an error and not written."""
    _log.warning("%d tiles of the log's tree are gone or damaged: they are made again", len(unfit))
    for each in unfit:
        tiles.move_aside(*each)
    hashes = StoredHashes(tree.edge, tiles.read)
    leaves = [index for level, index in unfit if level == 0]
    # runs of neighbours are read in one go
    for _, run in groupby(enumerate(leaves), key=lambda pair: pair[1] - pair[0]):
        indexes = [index for _, index in run]
        start = tree.edge.first + indexes[0] * TILE_WIDTH
        end = tree.edge.first + (indexes[-1] + 1) * TILE_WIDTH - 1
        fold, place = TreeFold(), 0
        async for message in log.read_raw(start_seq=start, end_seq=end):
            fold.extend([message])
            for made in fold.take_changes()[0]:
                if made.level == 0:
                    index, place = indexes[place], place + 1
                    await asyncio.to_thread(_write, tiles, hashes, Tile(0, index, made.hashes))
    for level, index in unfit:
        if level:
            below = range(index * TILE_WIDTH, (index + 1) * TILE_WIDTH)
            joined = b"".join(subtree_hash(tiles.read(level - 1, each)) for each in below)
            await asyncio.to_thread(_write, tiles, hashes, Tile(level, index, joined))


def _write(tiles: Tiles, hashes: StoredHashes, tile: Tile) -> None:
    try:
        expected = hashes.at(8 * (tile.level + 1), tile.index)
    except TileMissing:
        expected = subtree_hash(tile.hashes)  # the tile above is made of these, and compared in its turn
    if subtree_hash(tile.hashes) != expected:
        _log.error(
            "tile %d of level %d cannot be made again: the log's events are not those that were folded. Run: "
            "trainshed audit verify",
            tile.index,
            tile.level,
        )
        return
    tiles.write(tile)
