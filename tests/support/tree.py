"""The log's tree as a test folds it by itself, and the tiles that lie in a folder."""

from __future__ import annotations

import base64
from pathlib import Path

from events.log import EventLog
from projections.transparency.checkpoint import SignedHead
from projections.transparency.fold import TreeFold
from projections.transparency.tree import HASH_BYTES


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


def proof_in(text: str) -> tuple[int, list[bytes], SignedHead]:
    """(index, hashes, checkpoint) of a tlog-proof, which the product writes and never reads."""
    above, _, checkpoint = text.partition("\n\n")
    kind, index, *hashes = above.split("\n")
    assert kind == "c2sp.org/tlog-proof@v1" and index.startswith("index ")
    proof = [base64.b64decode(line, validate=True) for line in hashes]
    assert all(len(each) == HASH_BYTES for each in proof)
    return int(index.removeprefix("index ")), proof, SignedHead.parse(checkpoint)
