"""The key with which this node cosigns the log's checkpoints: made once, kept in the state folder, never shown.

Owns ``witness/witness.key``; knows no checkpoint.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from projections.transparency.checkpoint import origin_of
from projections.transparency.note import KeyKind, SignerKey
from services.logging import get_logger
from trainshed_client.endpoint import write_private
from trainshed_client.errors import TrainshedError

_log = get_logger("agent")

KEY_FILE = "witness.key"


def witness_key(folder: Path, log_id: str, node: str) -> SignerKey:
    """The node's key, made where it is missing; blocks. One that cannot be used is kept as ``.old``. Raises OSError."""
    name = f"{origin_of(log_id)}/{node}"
    path = folder / KEY_FILE
    if (key := _kept(path, name)) is not None:
        return key
    key = SignerKey(name, KeyKind.COSIGNATURE, secrets.token_bytes(32))
    write_private(path, f"{key.text}\n".encode())
    _log.info("made the key with which this node witnesses the log", vkey=str(key.verifier))
    return key


def _kept(path: Path, name: str) -> SignerKey | None:
    try:
        key = SignerKey.parse(path.read_text().strip())
    except FileNotFoundError:
        return None
    except (TrainshedError, UnicodeDecodeError) as error:
        why = str(error)
    else:
        if key.name == name and key.kind is KeyKind.COSIGNATURE:
            return key
        why = f"it is of {key.name}"
    old = path.with_name(f"{KEY_FILE}.old")
    os.replace(path, old)
    _log.warning("the witness's key cannot be used: there will be another", reason=why, kept=str(old))
    return None
