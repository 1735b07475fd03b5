"""The log's tree as a test folds it by itself, and the tiles that lie in a folder."""

from __future__ import annotations

from pathlib import Path

from events.log import EventLog
from projections.transparency.fold import TreeFold


async def folded(log: EventLog) -> TreeFold:
    """The tree of what the server has."""
    tree = TreeFold()
    async for message in log.read_raw():
        tree.extend([message])
    return tree


def tile_files(folder: Path) -> dict[str, bytes]:
    """Path in ``folder`` → content of every file of a tile."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.glob("tile/**/*")
        if file.is_file()
    }
