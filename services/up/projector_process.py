"""The projector of a one-machine stack as a process of its own, started again when it dies.

Owns that child: reading must never hold up a decision. Knows no table.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping

from services.logging import get_logger
from services.setting_values import Listen
from trainshed_client.endpoint import Endpoint

_log = get_logger("up")

AGAIN_AFTER_S = (0.2, 1.0, 5.0)
STOP_WITHIN_S = 1.0


class ProjectorProcess:
    """A Service that keeps ``trainshed projector --records`` running."""

    name = "projector"

    def __init__(
        self, endpoint: Endpoint, environment: Mapping[str, str], http_listen: Listen | None = None
    ) -> None:
        # Whatever the caller's environment says of another server is not meant for this child.
        self._environment = {
            **environment,
            "TRAINSHED_NATS_URL": endpoint.url,
            "TRAINSHED_NATS_USER": endpoint.user or "",
            "TRAINSHED_NATS_PASSWORD": endpoint.password or "",
            "TRAINSHED_NATS_PASSWORD_FILE": "",
            "TRAINSHED_HTTP_LISTEN": str(http_listen or ""),
        }
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        self.pid: int | None = None

    async def run(self) -> None:
        """Keep it running until stopped."""
        failures = 0
        while not self._stop.is_set():
            started = asyncio.get_running_loop().time()
            code = await self._once()
            if self._stop.is_set():
                return
            lived = asyncio.get_running_loop().time() - started
            failures = 0 if lived > 30 else failures + 1
            pause = AGAIN_AFTER_S[min(failures, len(AGAIN_AFTER_S)) - 1] if failures else AGAIN_AFTER_S[0]
            _log.warning("the projector ended; starting it again", exit_code=code, in_s=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stop.wait()

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    async def _once(self) -> int:
        """One life of the child. It tells that it serves by a line on a pipe."""
        read, write = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "services.cli",
                "projector",
                "--records",
                "--ready-fd",
                str(write),
                "--die-with",
                str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environment,
                pass_fds=(write,),
                start_new_session=True,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.pid = process.pid
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(self._await_ready(read))
            ended = tasks.create_task(process.wait())
            stopped = tasks.create_task(self._stop.wait())
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            stopped.cancel()
            if not ended.done():
                await _end(process)
        self.pid = None
        return ended.result()

    async def _await_ready(self, read: int) -> None:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        loop.add_reader(read, arrived.set)
        try:
            await arrived.wait()
            if os.read(read, 1):
                self.ready.set()
        finally:
            loop.remove_reader(read)
            os.close(read)


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
