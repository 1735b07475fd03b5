"""This node as a witness of the event log (docs/protocol.md rule 20).

Owns the witness's I/O; what a checkpoint means for it is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from projections.transparency.note import SignerKey
from services.agent.witness.key import witness_key
from services.daemon_thread import in_daemon_thread
from services.logging import get_logger
from trainshed_client.os_errors import cause

_log = get_logger("agent")

ANSWERS_WITHIN_S = 2.0
"""Seconds that a join waits for the key's storage."""


class Witness:
    """One agent's. Without a key it is none, and the agent works on."""

    def __init__(self, folder: Path, log_id: str, node: str) -> None:
        self._folder = folder
        self._log_id = log_id
        self._node = node
        self._key: SignerKey | None = None
        self._vkey: str | None = None
        self._key_read = asyncio.Event()

    async def vkey(self) -> str | None:
        """Its key for whoever verifies its cosignatures; None where it has none, or its storage does not answer."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                await self._key_read.wait()
        except TimeoutError:
            _log.warning("the storage of the witness's key does not answer", folder=str(self._folder))
        return self._vkey

    async def run(self) -> None:
        """Witness until cancelled."""
        try:
            self._key, self._vkey = await in_daemon_thread(
                partial(_read_key, self._folder, self._log_id, self._node)
            )
        except OSError as error:
            _log.warning("this node witnesses nothing: its key cannot be kept", error=cause(error))
        finally:
            self._key_read.set()


def _read_key(folder: Path, log_id: str, node: str) -> tuple[SignerKey, str]:
    key = witness_key(folder, log_id, node)
    return key, str(key.verifier)
