"""C2SP's tlog-checkpoint and tlog-proof: what is signed of a tree, and a leaf's proof in a file of its own.

Owns the two texts; hashes are the tree's, signatures the note's.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

import msgspec

from projections.transparency.note import Note, bad, parse_note, unbase64
from projections.transparency.tree import HASH_BYTES

_PROOF = "c2sp.org/tlog-proof@v1"
_NUMBER = re.compile("0|[1-9][0-9]{0,18}")


def origin_of(log_id: str) -> str:
    """The name of a log's tree, and of the key that signs it."""
    return f"trainshed/{log_id}"


class TreeHead(msgspec.Struct, frozen=True):
    """A tree at one size: what a checkpoint speaks of."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str, field: str = "checkpoint") -> TreeHead:
        """Raises TrainshedError (invalid), naming ``field``. Extension lines are passed over."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
            raise bad("is no checkpoint: lines of an origin, a size and a root hash", field)
        if not _NUMBER.fullmatch(lines[1]):
            raise bad(f"the size is no decimal number: {lines[1]!r:.40}", field)
        root = unbase64(lines[2], field)
        if len(root) != HASH_BYTES:
            raise bad(f"the root hash has {len(root)} bytes, not {HASH_BYTES}", field)
        return cls(lines[0], int(lines[1]), root)


class SignedHead(msgspec.Struct, frozen=True):
    """A checkpoint as it was read. Nothing of it is verified."""

    head: TreeHead
    note: Note

    @classmethod
    def parse(cls, data: bytes | str, field: str = "checkpoint") -> SignedHead:
        """Raises TrainshedError (invalid), naming ``field``."""
        note = parse_note(data, field)
        return cls(TreeHead.parse(note.text, field), note)


def proof_text(index: int, proof: Sequence[bytes], checkpoint: str) -> str:
    """A tlog-proof file; ``checkpoint``: a whole signed note."""
    hashes = "".join(f"{base64.b64encode(each).decode()}\n" for each in proof)
    return f"{_PROOF}\nindex {index}\n{hashes}\n{checkpoint}"
