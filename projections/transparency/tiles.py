"""Full tiles as files, as C2SP's tlog-tiles lays them out, and the hashes that tiles and a right edge give together.

Owns paths and how a file is written whole; knows no log and no database. A tile can always be made again of the log.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from projections.transparency.fold import TILE_BYTES, TILE_WIDTH, RightEdge, Tile
from projections.transparency.tree import HASH_BYTES, subtree_hash


class TileMissing(Exception):
    """A full tile that is not there, or not whole."""


def tile_path(level: int, index: int) -> str:
    """``tile/<level>/<index>``, the index as tlog-tiles spells it: ``x001/x234/067``."""
    parts = [f"{index % 1000:03}"]
    while index := index // 1000:
        parts.append(f"x{index % 1000:03}")
    return f"tile/{level}/{'/'.join(reversed(parts))}"


def full_tiles(size: int) -> Iterator[tuple[int, int]]:
    """(level, index) of every full tile of a tree of ``size`` leaves, from the leaves up."""
    level = 0
    while count := size >> 8 * (level + 1):
        for index in range(count):
            yield level, index
        level += 1


class Tiles:
    """The full tiles of one log in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, level: int, index: int) -> bytes:
        """A tile's hashes. Raises TileMissing."""
        path = self.folder / tile_path(level, index)
        try:
            hashes = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise TileMissing(f"{path} is not there") from None
        if len(hashes) != TILE_BYTES:
            raise TileMissing(f"{path} has {len(hashes)} bytes, not {TILE_BYTES}")
        return hashes

    def write(self, tile: Tile) -> Path | None:
        """Write a tile whole; what is there already stays. Where that differs it is kept beside it, whose path is returned."""
        path = self.folder / tile_path(tile.level, tile.index)
        kept = None
        try:
            there = self.read(tile.level, tile.index)
        except TileMissing:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        else:
            if there == tile.hashes:
                return None
            kept = path.with_name(f"{path.name}.old")
            os.replace(path, kept)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_bytes(tile.hashes)
        os.replace(fresh, path)
        return kept

    def missing(self, size: int) -> list[tuple[int, int]]:
        """The tiles that a tree of ``size`` leaves should have and that are not there whole, from the leaves up."""
        return [tile for tile in full_tiles(size) if not self._is_whole(*tile)]

    def damaged(self, edge: RightEdge) -> list[tuple[int, int]]:
        """The tiles that do not hash to what the tile above has of them (or the edge), from the leaves up."""
        found, hashes = list[tuple[int, int]](), StoredHashes(edge, self.read)
        for level, index in full_tiles(edge.size):
            with suppress(TileMissing):
                if hashes.at(8 * (level + 1), index) != subtree_hash(self.read(level, index)):
                    found.append((level, index))
        return found

    def move_aside(self, level: int, index: int) -> None:
        """Keep a tile that is damaged as ``<index>.old``; where there is none, nothing happens."""
        path = self.folder / tile_path(level, index)
        with suppress(FileNotFoundError, NotADirectoryError):
            os.replace(path, path.with_name(f"{path.name}.old"))

    def _is_whole(self, level: int, index: int) -> bool:
        try:
            return os.stat(self.folder / tile_path(level, index)).st_size == TILE_BYTES
        except (FileNotFoundError, NotADirectoryError):
            return False


class StoredHashes:
    """The hash of any complete subtree of a tree, from its right edge and full tiles, each of which is read once."""

    def __init__(self, edge: RightEdge, read: Callable[[int, int], bytes]) -> None:
        self._edge = edge
        self._read = read
        self._tiles: dict[tuple[int, int], bytes] = {}

    def at(self, level: int, index: int) -> bytes:
        """See ``tree.HashAt``. Raises TileMissing."""
        tile_level, bits = divmod(level, 8)
        number, place = divmod(index << bits, TILE_WIDTH)
        hashes = self._tile(tile_level, number)
        return subtree_hash(hashes[place * HASH_BYTES : (place + (1 << bits)) * HASH_BYTES])

    def _tile(self, level: int, index: int) -> bytes:
        if index == self._edge.size >> 8 * (level + 1):
            return self._edge.levels[level]
        if (level, index) not in self._tiles:
            self._tiles[level, index] = self._read(level, index)
        return self._tiles[level, index]
