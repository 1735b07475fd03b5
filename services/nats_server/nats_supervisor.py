"""Keeps the embedded nats-server working: started again when it ends, when it hangs, and when its disk has room again.

Owns that watch; services wait the outage out by themselves, and what is acknowledged is on the disk whatever ends it.
"""

from __future__ import annotations

import asyncio
import enum
from typing import assert_never

import msgspec

from services.logging import get_logger
from services.nats_server.embedded_nats import EmbeddedNats
from services.nats_server.monitor import Health, HealthAnswer, health
from services.nats_server.room import MIB, Room, disk_room
from trainshed_client.errors import TrainshedError

_log = get_logger("up")

AGAIN_AFTER_S = 0.5
LOOK_EVERY_S = 2.0
ASK_WITHIN_S = 2.5
"""Of each of the two questions that a server which does not answer is asked at a look."""
HUNG_LOOKS = 3
"""Looks in a row, 15 s and more, without any answer: counted and not timed, for it may have been us who stood still."""
SLOW_LOOKS = 5
"""Looks in a row at a server that lives and does not answer for its store, until that is logged."""
FAILING_LOOKS = 2
"""Looks in a row that find a server failing: a consumer that was deleted at that very moment is no reason."""
ROOM_BYTES = 16 * MIB
"""Below this a server that was started again would soon meet the full disk again."""
RESTART_PAUSE_S = 10.0
"""Between one restart of a server that fails and the next; doubled each time up to ``RESTART_PAUSE_MAX_S``."""
RESTART_PAUSE_MAX_S = 300.0


class Act(enum.Enum):
    """What is due after a look."""

    NOTHING = "nothing"
    LOG_SILENT = "log_silent"
    LOG_SLOW = "log_slow"
    LOG_FULL = "log_full"
    LOG_WELL = "log_well"
    END_HUNG = "end_hung"
    RESTART = "restart"


class Watch(msgspec.Struct, frozen=True):
    """What earlier looks leave behind. ``restart_from``: no restart of a failing server before then (loop clock)."""

    silent: int = 0
    slow: int = 0
    failing: int = 0
    logged_full: bool = False
    restart_from: float = 0.0
    pause_s: float = RESTART_PAUSE_S


def after_look(watch: Watch, answer: HealthAnswer, free: int | None, now: float) -> tuple[Watch, Act]:
    """What a look's answer means. ``free``: bytes left on the store's disk, None where that is not known."""
    match answer.health:
        case Health.OK:
            act = Act.LOG_WELL if watch.silent or watch.failing or watch.slow >= SLOW_LOOKS else Act.NOTHING
            if (
                now >= watch.restart_from + watch.pause_s
            ):  # well for a while: what comes next is another trouble
                return Watch(), act
            return Watch(restart_from=watch.restart_from, pause_s=watch.pause_s), act
        case Health.SLOW:
            watch = msgspec.structs.replace(watch, silent=0, slow=watch.slow + 1)
            return watch, Act.LOG_SLOW if watch.slow == SLOW_LOOKS else Act.NOTHING
        case Health.SILENT:
            watch = msgspec.structs.replace(watch, silent=watch.silent + 1)
            if watch.silent >= HUNG_LOOKS and watch.silent % HUNG_LOOKS == 0:
                return watch, Act.END_HUNG
            return watch, Act.LOG_SILENT if watch.silent == 1 else Act.NOTHING
        case Health.FAILING:
            watch = msgspec.structs.replace(watch, silent=0, failing=watch.failing + 1)
            if free is not None and free < ROOM_BYTES:
                if watch.logged_full:
                    return watch, Act.NOTHING
                return msgspec.structs.replace(watch, logged_full=True), Act.LOG_FULL
            if watch.failing < FAILING_LOOKS or now < watch.restart_from:
                return watch, Act.NOTHING
            return (
                msgspec.structs.replace(
                    watch,
                    logged_full=False,
                    restart_from=now + watch.pause_s,
                    pause_s=min(2 * watch.pause_s, RESTART_PAUSE_MAX_S),
                ),
                Act.RESTART,
            )
        case _ as never:
            assert_never(never)


class NatsSupervisor:
    """A Service around a server that was started before it. Stopping it leaves the server to its owner."""

    name = "nats-server"

    def __init__(
        self,
        server: EmbeddedNats,
        *,
        look_every_s: float = LOOK_EVERY_S,
        ask_within_s: float = ASK_WITHIN_S,
    ) -> None:
        self._server = server
        self._look_every_s = look_every_s
        self._ask_within_s = ask_within_s
        self._up = asyncio.Event()
        self._up.set()
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        self.ready.set()

    async def run(self) -> None:
        """Start the server again whenever it ends, and end it where it hangs or fails for good, until stopped."""
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(self._keep())
            watching = tasks.create_task(self._watch())
            await self._stop.wait()
            keeping.cancel()
            watching.cancel()

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    async def _keep(self) -> None:
        while True:
            how = await self._server.wait()
            self._up.clear()
            _log.warning("nats-server ended; starting it again", how=how)
            logged = ""
            while True:
                try:
                    await self._server.start()
                    break
                except TrainshedError as error:
                    if str(error) != logged:
                        logged = str(error)
                        _log.error("nats-server did not start; trying again until it does", why=logged)
                    await asyncio.sleep(AGAIN_AFTER_S)
            self._up.set()

    async def _watch(self) -> None:
        watch = Watch()
        while True:
            await asyncio.sleep(self._look_every_s)
            await self._up.wait()
            answer = await health(self._server.monitor_url, within_s=self._ask_within_s)
            if not self._up.is_set() or self._server.pid is None:
                continue  # it ended meanwhile, and is started again
            room = await self._room() if answer.health is Health.FAILING else None
            now = asyncio.get_running_loop().time()
            watch, act = after_look(watch, answer, None if room is None else room.free, now)
            await self._do(act, answer, room)

    async def _room(self) -> Room | None:
        try:
            return await asyncio.to_thread(disk_room, self._server.store_dir)
        except OSError:
            return None

    async def _do(self, act: Act, answer: HealthAnswer, room: Room | None) -> None:
        match act:
            case Act.NOTHING:
                pass
            case Act.LOG_SILENT:
                _log.warning("nats-server does not answer; it is started again if that goes on")
            case Act.LOG_SLOW:
                _log.warning(
                    "nats-server lives and stores nothing: its disk is slow or hangs",
                    disk=str(self._server.store_dir),
                )
            case Act.LOG_WELL:
                _log.info("nats-server answers again")
            case Act.LOG_FULL:
                _log.error(
                    "nats-server's disk is full: nothing is stored and workers go on; it is started again once "
                    f"{ROOM_BYTES // MIB} MB are free",
                    disk=str(self._server.store_dir),
                    free_mb=None if room is None else room.free_mb,
                    why=answer.why,
                )
            case Act.END_HUNG:
                _log.error("nats-server hangs; it is killed and started again")
                await self._server.stop(within_s=0.0)
            case Act.RESTART:
                _log.warning(
                    "nats-server stores nothing until it is started again; starting it again",
                    why=answer.why,
                    free_mb=None if room is None else room.free_mb,
                )
                await self._server.stop()
            case _ as never:
                assert_never(never)
