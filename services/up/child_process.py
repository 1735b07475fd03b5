"""A service of a one-machine stack as a process of its own, started again when it dies or hangs: projector, enrolment.

Owns that child: reading must never hold up a decision, and the authority's key is read by no other process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import assert_never

from services.logging import get_logger
from services.projector.start import Start
from services.setting_values import Listen
from services.up.child_link import UpEnd
from services.up.child_watch import (
    ANSWER_WITHIN_S,
    LONG_LIFE_S,
    LOOK_EVERY_S,
    ChildAct,
    after_child_look,
    why_given_up,
)

_log = get_logger("up")

_OTHERS = (
    "TRAINSHED_NATS_URL",
    "NATS_URL",
    "TRAINSHED_NATS_USER",
    "TRAINSHED_NATS_PASSWORD",
    "TRAINSHED_NATS_PASSWORD_FILE",
)
AGAIN_AFTER_S = (0.2, 1.0, 5.0)
STOP_WITHIN_S = 1.0


class ChildProcess:
    """A Service that keeps ``trainshed ARGUMENTS`` running."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        credentials: Path,
        environment: Mapping[str, str],
        http_listen: Listen | None = None,
        monitor_url: str | None = None,
        *,
        look_every_s: float = LOOK_EVERY_S,
        answer_within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        # Whatever the caller's environment says of another server is not meant for this child.
        self._environment = {
            **environment,
            **dict.fromkeys(_OTHERS, ""),
            "TRAINSHED_CREDENTIALS": str(credentials),
            "TRAINSHED_NATS_MONITOR_URL": monitor_url or "",
            "TRAINSHED_HTTP_LISTEN": str(http_listen or ""),
        }
        self.name = name
        self._arguments = arguments
        self._look_every_s = look_every_s
        self._answer_within_s = answer_within_s
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        self.pid: int | None = None

    async def run(self) -> None:
        """Keep it running until stopped. Raises TrainshedError where it cannot start (`why_given_up`)."""
        failures = 0
        logged: object = None
        while not self._stop.is_set():
            started = asyncio.get_running_loop().time()
            link = UpEnd()
            try:
                code = await self._once(link)
            finally:
                link.close()
            if self._stop.is_set():
                return
            lived = asyncio.get_running_loop().time() - started
            failures = 1 if lived > LONG_LIFE_S else failures + 1
            error = why_given_up(self.name, link.refusal, code, failures, has_served=self.ready.is_set())
            if error is not None:
                raise error
            pause = AGAIN_AFTER_S[min(failures, len(AGAIN_AFTER_S)) - 1]
            why = {} if link.refusal is None else {"why": link.refusal.message}
            if link.refusal is None or logged != link.refusal:
                _log.warning(f"the {self.name} ended; starting it again", exit_code=code, in_s=pause, **why)
            logged = link.refusal
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stop.wait()

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    async def _once(self, link: UpEnd) -> int:
        """One life of the child."""
        start = Start.AGAIN if self.ready.is_set() else Start.AWAITED
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "services.cli", *self._arguments),
            *("--link", str(link.fd), "--start", start.value, "--die-with", str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            env=self._environment,
            pass_fds=(link.fd,),
            start_new_session=True,
        )
        link.started()
        self.pid = process.pid
        async with asyncio.TaskGroup() as tasks:
            ended = tasks.create_task(process.wait())
            stopped = tasks.create_task(self._stop.wait())
            listening = tasks.create_task(link.listen())
            helpers = [
                stopped,
                tasks.create_task(self._serve_when_ready(link)),
                tasks.create_task(self._watch(link, process)),
            ]
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for helper in helpers:
                helper.cancel()
            if not ended.done():
                await _end(process)
            await asyncio.wait({listening}, timeout=STOP_WITHIN_S)  # what it wrote before it ended
            listening.cancel()
        self.pid = None
        return ended.result()

    async def _serve_when_ready(self, link: UpEnd) -> None:
        await link.ready.wait()
        self.ready.set()

    async def _watch(self, link: UpEnd, process: asyncio.subprocess.Process) -> None:
        """Look whether it lives; kill it where it hangs."""
        silent = 0
        while True:
            await asyncio.sleep(self._look_every_s)
            link.ask()
            answered = True
            try:
                async with asyncio.timeout(self._answer_within_s):
                    await link.alive.wait()
            except TimeoutError:
                answered = False
            silent, act = after_child_look(silent, answered=answered, begun=link.begun)
            self._do(act, process)

    def _do(self, act: ChildAct, process: asyncio.subprocess.Process) -> None:
        match act:
            case ChildAct.NOTHING:
                pass
            case ChildAct.LOG_SILENT:
                _log.warning(f"the {self.name} does not answer; it is started again if that goes on")
            case ChildAct.LOG_WELL:
                _log.info(f"the {self.name} answers again")
            case ChildAct.END_HUNG:
                _log.error(f"the {self.name} hangs; it is killed and started again")
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            case _ as never:
                assert_never(never)


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, then SIGKILL: its work is exactly once, so nothing is lost either way."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_WITHIN_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
