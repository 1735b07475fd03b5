"""How much room the event log's store has left, and whether that is enough to take on new work.

Owns the look, how it is logged, and the refusal; knows no command and no run.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import nats.errors

from services.logging import get_logger
from services.nats_server.monitor import storage_left
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

_log = get_logger("gateway")

MIB = 1 << 20
LOOK_EVERY_S = 2.0
UNKNOWN_EVERY_S = 60.0
"""Where the last look found nothing: an account without a limit has none the next moment either."""


class Room(msgspec.Struct, frozen=True):
    """What a look found: ``where`` names the store for a person, ``free`` is in bytes."""

    where: str
    free: int

    @property
    def free_mb(self) -> int:
        """Whole MiB."""
        return max(0, self.free) // MIB


Look = Callable[[], Awaitable[Room | None]]
"""None: nothing is known, which refuses nothing."""


def refusal(room: Room | None, min_free_mb: int) -> TrainshedError | None:
    """Why no new work is taken on now; None where there is room, or nothing is known of it."""
    if room is None or room.free >= min_free_mb * MIB:
        return None
    return TrainshedError(
        ErrorCode.UNAVAILABLE,
        f"{room.where} has {room.free_mb} MB left, and nothing new is accepted below {min_free_mb} MB "
        "(TRAINSHED_MIN_FREE_MB), so that the ends of what runs can still be stored. Make room, for one by "
        "removing the folders of ended runs (trainshed prune --older-than 30d), and ask again",
    )


def disk_room(folder: Path) -> Room:
    """The room on the disk that ``folder`` is on. Raises OSError."""
    return Room(f"the disk of {folder}", shutil.disk_usage(folder).free)


def on_disk(folder: Path) -> Look:
    """The room of a server whose store is a folder of this machine."""

    async def look() -> Room | None:
        try:
            return await asyncio.to_thread(disk_room, folder)  # a disk may take its time
        except OSError as error:
            _log.debug("the disk does not say how much room it has", folder=str(folder), why=cause(error))
            return None

    return look


def on_server(nc: SafeClient, monitor_url: str | None) -> Look:
    """The room of a server elsewhere: what its monitoring says where that is known, else what its account may store.

    The account's limit is all that a client can ask for; most accounts have none, and then nothing is known.
    """

    async def look() -> Room | None:
        if monitor_url is not None:
            left = await storage_left(monitor_url)
            return None if left is None else Room(f"the JetStream store of {monitor_url}", left)
        try:
            account = await nc.jetstream(timeout=LOOK_EVERY_S).account_info()
        except (TimeoutError, nats.errors.Error):
            return None
        limit = account.limits.max_storage
        if not limit or limit < 0:  # 0: the limits of this account are by tiers of replicas
            return None
        return Room("the JetStream store of this account", limit - account.storage)

    return look


class RoomWatch:
    """Looks every two seconds, so that no request waits for a look; says once when room runs out, and once when it is
    back."""

    def __init__(self, look: Look, min_free_mb: int, *, every_s: float = LOOK_EVERY_S) -> None:
        self._look = look
        self._min_free_mb = min_free_mb
        self._every_s = every_s
        self._short = False
        self.room: Room | None = None
        """What the last look found."""

    @property
    def refusal(self) -> TrainshedError | None:
        """Why no new work is taken on now."""
        return refusal(self.room, self._min_free_mb)

    async def look(self) -> None:
        """Look now."""
        self.room = await self._look()
        if self.room is None:
            return  # what was found last still holds, for all that is known
        short = self.refusal
        if short is not None and not self._short:
            _log.error("the store is nearly full: submissions are refused", why=short.message)
        elif short is None and self._short:
            _log.info("the store has room again", where=self.room.where, free_mb=self.room.free_mb)
        self._short = short is not None

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s if self.room is not None else UNKNOWN_EVERY_S)
            await self.look()
