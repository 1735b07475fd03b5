"""What is published of the log's checkpoints, read and verified; and a checkpoint with the node's own cosignature.

Owns that message's form as a witness reads it; knows nothing of what was seen before.
"""

from __future__ import annotations

import base64

import msgspec

from events.types import NodeCosignature
from projections.transparency.checkpoint import SignedHead
from projections.transparency.note import KeyKind, SignerKey, VerifierKey, bad, cosigned_at, signed, verified
from services.agent.witness.values import LogAcceptance, SeenCheckpoint
from trainshed_client.errors import ErrorCode, TrainshedError

MAX_BYTES = 2 << 20
"""An event of 1 MB, in base64, may come with it."""
_TIME_BYTES = 8


class PublishedCheckpoint(msgspec.Struct, frozen=True):
    """The message."""

    vkey: str
    checkpoint: str
    accepted: LogAcceptance | None = None


def read_published(data: bytes) -> SeenCheckpoint:
    """The checkpoint of a message, signed by the key beside it. Raises TrainshedError (invalid)."""
    if len(data) > MAX_BYTES:
        raise bad(f"is longer than {MAX_BYTES} bytes", "checkpoint")
    try:
        message = msgspec.json.decode(data, type=PublishedCheckpoint)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise TrainshedError(ErrorCode.INVALID, str(error)) from None
    key = VerifierKey.parse(message.vkey)
    if key.kind is not KeyKind.ED25519:
        raise bad("is a key of cosignatures, and no log's", "vkey")
    found = SignedHead.parse(message.checkpoint)
    verified(found.note, [key], "checkpoint")
    if (
        found.note.text != found.head.text
    ):  # a heartbeat's cosignature is read back with these three lines alone
        raise bad(
            "has more than an origin, a size and a root hash, which no signer of Trainshed's writes",
            "checkpoint",
        )
    return SeenCheckpoint(found.head, message.checkpoint, message.vkey, message.accepted)


def cosign(seen: SeenCheckpoint, key: SignerKey, now_s: int) -> tuple[str, NodeCosignature]:
    """The checkpoint with this node's signature below the others, and what a heartbeat bears of that."""
    found = SignedHead.parse(seen.note)
    own = key.sign(found.note.text, now_s)
    others = [line for line in found.note.signatures if (line.name, line.key_id) != (own.name, own.key_id)]
    cosignature = NodeCosignature(
        size=seen.head.size,
        root=base64.b64encode(seen.head.root).decode(),
        time=cosigned_at(own.signature),
        signature=base64.b64encode(own.signature[_TIME_BYTES:]).decode(),
    )
    return signed(found.note.text, [*others, own]), cosignature


def has_signed(key: SignerKey, note: str) -> bool:
    """Whether a signature of this key is below the checkpoint: a key that was lost has another after it."""
    found, verifier = SignedHead.parse(note), key.verifier
    return any((line.name, line.key_id) == (verifier.name, verifier.key_id) for line in found.note.signatures)
