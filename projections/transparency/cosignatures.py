"""What nodes have cosigned of the log's tree, from what their rows or records say: heads, keys and signature lines.

Owns how these make a cosignature again, and which checkpoint most nodes have cosigned; knows no table and no signer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from projections.transparency.checkpoint import TreeHead
from projections.transparency.note import NoteSignature, VerifierKey, bad, unbase64
from projections.transparency.tree import HASH_BYTES
from trainshed_client.errors import TrainshedError
from trainshed_client.statuses import NodeStatus

_SIGNATURE_BYTES = 64
_LATEST = 253_402_300_799
"""The last second that RFC 3339 has a text for."""


class WitnessingNode(Protocol):
    """What is read of a node: its record or its row."""

    @property
    def node(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def witness(self) -> str | None: ...

    @property
    def witnessed_size(self) -> int | None: ...

    @property
    def witnessed_root(self) -> str | None: ...

    @property
    def witnessed_at(self) -> int | None: ...

    @property
    def witness_signature(self) -> str | None: ...


class Cosigned(msgspec.Struct, frozen=True):
    """The last checkpoint that a node cosigned, at ``at`` (s since 1970), and its signature line."""

    node: str
    is_up: bool
    head: TreeHead
    at: int
    key: VerifierKey
    signature: NoteSignature

    @property
    def holds(self) -> bool:
        """Whether the node's key made the signature."""
        return self.key.has_signed(self.head.text, self.signature.signature)


def cosigned_by(node: WitnessingNode, origin: str) -> Cosigned | None:
    """None where it has cosigned nothing. Raises TrainshedError (invalid) where what it says has not its form."""
    if node.witnessed_size is None:
        return None
    root = unbase64(node.witnessed_root or "", "witnessed_root")
    signature = unbase64(node.witness_signature or "", "witness_signature")
    if node.witnessed_size < 0 or len(root) != HASH_BYTES or len(signature) != _SIGNATURE_BYTES:
        raise bad("a size, a hash and a signature of Ed25519 are expected", "witness_signature")
    at, key = node.witnessed_at or 0, VerifierKey.parse(node.witness or "")
    if not 0 <= at <= _LATEST:
        raise bad("seconds since 1970 are expected", "witnessed_at")
    if key.name != f"{origin}/{node.node}":  # one key for two nodes would count twice
        raise bad(f"the key is of {key.name!r:.100}", "witness")
    line = NoteSignature(key.name, key.key_id, at.to_bytes(8, "big") + signature)
    head = TreeHead(origin, node.witnessed_size, root)
    return Cosigned(node.node, node.status == NodeStatus.UP, head, at, key, line)


def valid_cosignatures(nodes: Iterable[WitnessingNode], origin: str) -> list[Cosigned]:
    """Those that hold, by the nodes' names; what is none is an audit's to name."""
    found = []
    for node in nodes:
        try:
            cosigned = cosigned_by(node, origin)
        except TrainshedError:
            continue
        if cosigned is not None and cosigned.holds:
            found.append(cosigned)
    return sorted(found, key=lambda one: one.node)


def most_cosigned(cosigned: Sequence[Cosigned], fits: Callable[[TreeHead], bool]) -> TreeHead | None:
    """Of the heads that fit the one that most nodes that are up cosigned last; of several the newest. None: there is none."""
    counts: dict[TreeHead, int] = {}
    for one in cosigned:
        counts[one.head] = counts.get(one.head, 0) + one.is_up
    best = sorted(counts, key=lambda head: (counts[head], head.size), reverse=True)
    return next(filter(fits, best), None)
