"""The fold's snapshot file: a State with its position, whose log it is, and a digest over all of it.

Owns its format and when a file is not used; knows neither NATS nor what is folded.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from events.state import SNAPSHOT_VERSION, Snapshot
from trainshed_client.os_errors import why

_DIGEST_BYTES = 32


class KeptFold(msgspec.Struct, frozen=True):
    """What the file holds: whose log it is, a State, and the position that it stands at.

    ``position`` is at or after the State's own ``seq``: what came last may have been passed over.
    """

    log_id: str
    state: Snapshot
    position: int = 0
    """0 in a file of release 0.1, which put it into the State."""


class Unusable(Exception):
    """A snapshot that is there and is not to be used; the text says why, for a log line."""


def read(path: Path, log_id: str) -> KeptFold | None:
    """The snapshot of this log at ``path``; None where there is none.

    Raises Unusable: it cannot be read, is damaged, of another release or of another log.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unusable(f"it cannot be read: {why(error)}") from error
    body = content[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != content[:_DIGEST_BYTES]:
        raise Unusable("it is damaged")
    try:
        kept = msgspec.msgpack.decode(body, type=KeptFold)
    except msgspec.MsgspecError as error:
        raise Unusable(f"it is of another release: {error}") from error
    if kept.state.v != SNAPSHOT_VERSION:
        raise Unusable("it is of another release")
    if kept.log_id != log_id:
        raise Unusable(f"it is of another log ({kept.log_id}, not {log_id})")
    return msgspec.structs.replace(kept, position=max(kept.position, kept.state.seq))


def write(path: Path, kept: KeptFold) -> None:
    """Put the file in the place of the one before. Raises OSError.

    Without fsync: what a power cut leaves of it is told by its digest, and costs one fold of the whole log.
    """
    body = msgspec.msgpack.encode(kept)
    new = path.with_name(f"{path.name}.new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(hashlib.sha256(body).digest())
            file.write(body)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)  # the last room of a disk is for the ends of what runs
        raise
