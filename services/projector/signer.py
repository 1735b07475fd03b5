"""The signer of the log's tree: its key, and the checkpoints that it signs, publishes and keeps the last of.

Owns both files; only the projector that keeps the records has one. Knows no proof.
"""

from __future__ import annotations

import base64
import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from projections.queries.proofs import StoredTree
from projections.transparency.checkpoint import SignedHead, TreeHead, origin_of
from projections.transparency.cosignatures import Cosigned
from projections.transparency.note import KeyKind, NoteSignature, SignerKey, signed
from trainshed_client.direct_get import Message
from trainshed_client.errors import TrainshedError
from trainshed_client.os_errors import cause

_log = logging.getLogger("trainshed.projector")

KEY_FILE = "signer.key"
LAST_FILE = "checkpoint"


class Signer:
    """Signs for one log. Its folder is the log's own (``Tiles.claim``)."""

    def __init__(self, folder: Path, log_id: str) -> None:
        """Reads the key, or makes one. Raises OSError."""
        self.log_id = log_id
        self.origin = origin_of(log_id)
        self._folder = folder
        self.last_file = folder / LAST_FILE
        self._key = self._kept_key() or self._new_key()
        self.vkey = str(self._key.verifier)

    def head(self, tree: StoredTree) -> TreeHead:
        """The whole tree."""
        return TreeHead(self.origin, tree.edge.size, tree.edge.root)

    def checkpoint(self, head: TreeHead, cosignatures: Sequence[NoteSignature] = ()) -> str:
        """A signed checkpoint of the tree at one size."""
        return signed(head.text, [self._key.sign(head.text), *cosignatures])

    def answer(self, tree: StoredTree, head: TreeHead, cosigned: Sequence[Cosigned]) -> dict[str, Any]:
        """What ``audit.checkpoint`` answers; of ``cosigned`` those of that head count."""
        of_head = [one for one in cosigned if one.head == head]
        return {
            "v": 1,
            "seq": tree.seq,
            "origin": self.origin,
            "size": head.size,
            "root": base64.b64encode(head.root).decode(),
            "vkey": self.vkey,
            "checkpoint": self.checkpoint(head, [one.signature for one in of_head]),
            "cosigned_by": [one.node for one in of_head],
            "gap": tree.gap,
        }

    def published(self, checkpoint: str, accepted: Message | None) -> dict[str, Any]:
        """What is published of a checkpoint; ``accepted``: the last LogAccepted of its tree."""
        return {
            "v": 1,
            "log_id": self.log_id,
            "vkey": self.vkey,
            "checkpoint": checkpoint,
            "accepted": None
            if accepted is None
            else {
                "seq": accepted.seq,
                "stored_ns": accepted.stored_ns,
                "subject": accepted.subject,
                "body": base64.b64encode(accepted.body).decode(),
            },
        }

    def keep(self, checkpoint: str) -> None:
        """Keep a checkpoint as the last that was published. Raises OSError."""
        _write(self.last_file, checkpoint)

    def last(self) -> TreeHead | None:
        """The last that was published, as far as it is known."""
        try:
            return SignedHead.parse(self.last_file.read_bytes()).head
        except FileNotFoundError:
            return None
        except (OSError, TrainshedError) as error:
            _log.warning("the last checkpoint that was published cannot be read: %s", cause(error))
            return None

    def _kept_key(self) -> SignerKey | None:
        path = self._folder / KEY_FILE
        try:
            key = SignerKey.parse(path.read_text().strip())
        except FileNotFoundError:
            return None
        except (TrainshedError, UnicodeDecodeError) as error:
            why = f"cannot be read ({error})"
        else:
            if key.name == self.origin and key.kind is KeyKind.ED25519:
                return key
            why = f"is of {key.name}"
        kept = path.with_name(f"{KEY_FILE}.old")
        os.replace(path, kept)
        _log.warning("the signer's key %s: it is kept as %s", why, kept)
        return None

    def _new_key(self) -> SignerKey:
        key = SignerKey(self.origin, KeyKind.ED25519, secrets.token_bytes(32))
        _write(self._folder / KEY_FILE, key.text + "\n")
        _log.info("made a key that signs the log's checkpoints: %s", key.verifier)
        return key


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and only for its owner."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
