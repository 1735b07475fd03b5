"""One attempt on this node from its grant to its acknowledged end: what the agent keeps beside the session's state.

Owns its tail, its heartbeats and what is appended of it; decides nothing (`session` does).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from events.codec import Writer
from events.log import UnknownOutcome, last_message
from events.types import Artifacts, AttemptEnd, AttemptRef, OutputBytes, Started
from services.agent.attempts.code_looks import CodeLooks
from services.agent.folders import files
from services.agent.folders.files import ExitFile, ExitReason, HeartbeatFields, IntentFile, WorkerUser
from services.agent.folders.paths import Folders
from services.agent.folders.turns import Turns
from services.agent.inside.sockets import WorkerSockets
from services.agent.machine.gpu_usage import GpuUsage
from services.agent.output import artifacts
from services.agent.output.metrics_tail import MetricsTail
from services.agent.output.tails import AttemptTail, Output
from services.agent.processes.hand_in import hand_in_rest, last_handed_in
from services.agent.processes.workers import Workers
from services.agent.reports import ends
from services.agent.reports.appender import Appender
from services.agent.reports.heartbeats import OUTPUT_EVERY_S, RunHeartbeats
from services.agent.reports.own_reports import OwnReports
from services.daemon_thread import in_daemon_thread
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause
from trainshed_client.records import NO_USAGE
from trainshed_client.statuses import AtFault, CodeSeen
from trainshed_client.telemetry import is_telemetry

_log = get_logger("agent")

ANSWERS_WITHIN_S = 10.0
"""Seconds without any progress after which an end bears nothing of the storage of its run's folder."""
CODE_WITHIN_S = 1.0
"""Seconds after the worker's start within which an end waits for the look at its code."""
REST_WITHIN_S = 2.0
"""Seconds that an end takes at most to write down what stdout measured; what is left is counted after it."""
REST_LATE_S = 1.0
"""Seconds more after which its storage hangs."""
LISTED_WITHIN_S = 0.2
"""Seconds that an end takes at most to say what artifacts there are."""
_SILENT = "its storage does not answer"
_STDOUT_LOOK = 64 * 1024
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Parts(msgspec.Struct, frozen=True):
    """What all attempts of one agent share; ``orders``: a run's events are appended one after the other."""

    nc: SafeClient
    folders: Folders
    orders: Turns
    appender: Appender
    writer: Writer
    output: Output
    clock: Callable[[], int]
    host: str
    spawn: Spawn
    code_looks: CodeLooks
    inside: WorkerSockets
    gpu_usage: GpuUsage
    workers: Workers


class LiveAttempt:
    """The I/O of one attempt. Its events are appended one after the other, also where they are asked for at once."""

    def __init__(self, parts: Parts, ref: AttemptRef) -> None:
        self._parts = parts
        self.ref = ref
        self.folder = parts.folders.attempt(ref)
        self.intent: IntentFile | None = None
        self.exit: ExitFile | None = None
        self.message: str | None = None
        """Why it could not be launched, for people."""
        self.at_fault: AtFault | None = None
        """NODE where this agent tried to launch it, and something of the machine was in the way."""
        self.prepared: str | None = None
        """The folders made ahead that it takes."""
        self.adopted = False
        self.own_reports = OwnReports()
        self._gpu_usage = NO_USAGE
        self.unhashed = False
        """It left artifacts, which are to be hashed."""
        self.uncounted = False
        """Its stdout measured more than there was time to count."""
        self._tail: AttemptTail | None = None
        self._output_bytes = OutputBytes()
        self._metrics: MetricsTail | None = None
        self._heartbeats: RunHeartbeats | None = None
        self._followers: list[asyncio.Task[None]] = []
        self._output_seen = 0.0
        self._look: asyncio.Task[None] | None = None
        self._look_until = 0.0
        self._code_seen = CodeSeen.UNKNOWN

    @property
    def user(self) -> WorkerUser | None:
        """As whom its worker runs; None: as the agent does."""
        intent = self._intent()
        return None if intent is None else intent.user

    def listen(self) -> None:
        """Take what its worker asks of the stack."""
        if (intent := self._intent()) is not None and intent.socket:
            self._parts.inside.open(self.ref, intent.socket, intent.user)

    # --- what it uses of its devices -----------------------------------------------------------------------

    def began(self) -> None:
        """The worker has just started, or is found running: then what the agent before this one left is known, if it
        came to leave something."""
        kept = files.take_gpu_usage(self.folder) if self.adopted else None
        if (kept is not None or not self.adopted) and (intent := self._intent()) is not None:
            self._parts.gpu_usage.began(self.ref, intent.slots, kept)

    def over(self) -> None:
        """The last of its tree has gone."""
        self._gpu_usage = self._parts.gpu_usage.ended(self.ref)

    # --- while it runs ------------------------------------------------------------------------------------

    def not_launched(self, why: str, at_fault: AtFault = AtFault.NODE) -> None:
        """Something is in the way of its launch, mostly of the machine; the first that was met counts."""
        self.message, self.at_fault = self.message or why, self.at_fault or at_fault

    def follow(self) -> None:
        """The worker runs: publish its output and its heartbeats from now on. A second call is harmless."""
        intent = self._intent()
        if self._tail is not None or intent is None:
            return
        source = intent.launch.get("heartbeat", {}).get("source", "process")
        grew = self._output_grew if source == "output" else _nothing
        parts = self._parts
        self._metrics = metrics = self._new_metrics(intent)

        def grown() -> None:
            metrics.wake()
            grew()

        self._tail = parts.output.tail(self.ref, Path(intent.output_dir), grown, from_index=self.adopted)
        self._heartbeats = RunHeartbeats(
            parts.nc, parts.writer, self.ref, alive_counts=source == "process", clock=parts.clock
        )
        tasks = (self._tail.run(), metrics.run(), self._heartbeats.run())
        self._followers = [parts.spawn(task) for task in tasks]

    def _new_metrics(self, intent: IntentFile) -> MetricsTail:
        return MetricsTail(
            self._parts.output,
            self.ref,
            Path(intent.output_dir),
            partial(self._parts.workers.hand_in, self.folder),
            last_handed_in,
            adopted=self.adopted,
        )

    def metrics_written(self) -> None:
        """The shim has written metrics."""
        if self._metrics is not None:
            self._metrics.wake()

    def look_at_code(self) -> None:
        """The worker has just started: look whether its code is what was submitted. Nobody waits for it but an early end."""
        intent = self._intent()
        if not self.adopted and self._look is None and intent is not None and "code" in intent.launch:
            self._look_until = time.monotonic() + CODE_WITHIN_S
            self._look = self._parts.spawn(self._look_at_code(intent.launch, intent.user))

    async def _look_at_code(self, launch: Mapping[str, Any], user: WorkerUser | None) -> None:
        self._code_seen = await self._parts.code_looks.look(launch, user)
        try:
            files.write_code(self.folder, self._code_seen)
        except OSError as error:  # then only this process knows it
            _log.debug(
                "not written down", run_id=self.ref.run_id, attempt=self.ref.attempt, error=cause(error)
            )

    async def _code_at_start(self) -> CodeSeen | None:
        """None where the config names no code, or no worker has started."""
        intent = self._intent()
        if intent is None or "code" not in intent.launch:
            return None
        if self._look is not None:
            await asyncio.wait({self._look}, timeout=max(0.0, self._look_until - time.monotonic()))
            return self._code_seen
        if files.read_started(self.folder) is None:
            return None
        return files.read_code_seen(self.folder) or CodeSeen.UNKNOWN

    def report(self, heartbeat: HeartbeatFields) -> None:
        """The shim passes on what the worker reported."""
        self.follow()
        if self._heartbeats is not None:
            self._heartbeats.report(ends.report_of(heartbeat))

    def _output_grew(self) -> None:
        now = time.monotonic()
        if self._heartbeats is not None and now - self._output_seen >= OUTPUT_EVERY_S:
            self._output_seen = now
            self._heartbeats.seen()

    # --- what is appended --------------------------------------------------------------------------------------------

    async def append_started(self) -> None:
        """Append Started; the node's first event of an attempt."""
        async with self._parts.orders.of(self.ref.run_id):
            started = files.read_started(self.folder)
            intent = self._intent()
            if started is None or intent is None:
                return  # torn by a power cut: its end says what there is to say
            event = Started(
                run_id=self.ref.run_id,
                attempt=self.ref.attempt,
                pid=started.pid,
                host=self._parts.host,
                threads=intent.threads,
                slots=intent.slots,
                memory_enforced=started.memory_enforced,
                folder=str(intent.run_dir),
                devices=tuple(device for device in intent.devices if not device.isdecimal()),
            )
            await self._parts.appender.append(event, self.own_reports)

    async def append_end(self) -> None:
        """Append how it ended, once all of its output is published."""
        async with self._parts.orders.of(self.ref.run_id):
            if not self._never_ran():
                await self._finish_output()
            event = await self._end()
            if self._tail is not None:
                self._tail.close()
            await self._parts.appender.append(event, self.own_reports)
            _log.info(
                "attempt ended",
                run_id=self.ref.run_id,
                attempt=self.ref.attempt,
                how=type(event).__name__,
                reason=getattr(event, "failure_reason", None),
            )

    def _never_ran(self) -> bool:
        """Then there is no output, and its storage may be what it waited for."""
        return self._tail is None and self.exit is not None and self.exit.reason is ExitReason.NOT_STARTED

    async def _finish_output(self) -> None:
        followers, self._followers = self._followers, []
        for follower in followers:
            follower.cancel()
        if followers:
            await asyncio.wait(followers)
        if self._tail is None and (intent := self._intent()) is not None:
            folder = Path(intent.output_dir)
            self._tail = self._parts.output.tail(self.ref, folder, _nothing, from_index=self.adopted)
        if self._tail is not None:
            self._output_bytes, _ = await asyncio.gather(self._tail.finish(), self._finish_metrics())

    async def _finish_metrics(self) -> None:
        """Write down what the worker printed last: its shim is no more. Storage that hangs is not waited for."""
        record, intent = self.exit or files.read_exit(self.folder), self._intent()
        if record is None or intent is None:
            return
        give_up = time.monotonic() + REST_WITHIN_S
        work = partial(hand_in_rest, self.folder, Path(intent.output_dir), record, give_up)
        try:
            async with asyncio.timeout(REST_WITHIN_S + REST_LATE_S):
                rest = await in_daemon_thread(work)
        except OSError as error:
            _log.warning(
                "the last metrics of stdout are not written down",
                run_id=self.ref.run_id,
                attempt=self.ref.attempt,
                error=_SILENT if isinstance(error, TimeoutError) else cause(error),
            )
            self.uncounted = True
            return
        self.uncounted = not rest.whole
        self.exit = msgspec.structs.replace(record, last_heartbeat=rest.heartbeat)
        await (self._metrics or self._new_metrics(intent)).finish()

    async def _end(self) -> AttemptEnd:
        record = self.exit or files.read_exit(self.folder)
        if record is None:  # torn by a power cut
            record = ExitFile(reason=ExitReason.SHIM_LOST, ended_at=0.0)
        record = ends.with_gpu_usage(record, self._gpu_usage)
        heartbeats = self._heartbeats
        report, seq = (heartbeats.stored, heartbeats.seq) if heartbeats is not None else (None, 0)
        if not seq and self.adopted:
            seq = await self._stored_heartbeat()
        heartbeat = ends.last_heartbeat(record, report, seq)
        code = await self._code_at_start()
        output = self._output_bytes if ends.had_worker(record) else None
        if ends.failed(record):
            return ends.end_of(
                self.ref,
                record,
                heartbeat,
                code=code,
                output=output,
                last_output=await self._last_output(),
                message=self.message,
                at_fault=self.at_fault,
            )
        event = ends.end_of(self.ref, record, heartbeat, code=code, output=output)
        intent = self._intent()
        if ends.completed(event) and intent is not None:
            artifacts = await self._artifacts(Path(intent.run_dir))
            return ends.end_of(self.ref, record, heartbeat, code=code, output=output, artifacts=artifacts)
        return event

    async def _artifacts(self, run_dir: Path) -> Artifacts | None:
        """What there is, by name and size; None where the storage does not answer at once: a slot does not wait for it."""
        try:
            async with asyncio.timeout(LISTED_WITHIN_S):
                give_up = time.monotonic() + LISTED_WITHIN_S / 2
                listed = await in_daemon_thread(partial(artifacts.listed, run_dir, give_up))
        except TimeoutError:
            listed = None
        self.unhashed = listed is None or listed.count > 0
        return listed

    async def _last_output(self) -> ends.LastOutput | None:
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                return await in_daemon_thread(self._output_end)
        except TimeoutError:
            _log.warning(
                "the last of the output cannot be read",
                run_id=self.ref.run_id,
                attempt=self.ref.attempt,
                error=_SILENT,
            )
            return None

    async def _stored_heartbeat(self) -> int:
        """The sequence of the last heartbeat that an agent before this one published; 0 where there is none."""
        subject = subjects.run_heartbeat(self.ref.run_id, self._parts.appender.node)
        try:
            found = await last_message(self._parts.nc, subjects.HEARTBEATS_STREAM, subject)
        except UnknownOutcome:
            return 0
        return 0 if found is None else found.seq

    def _output_end(self) -> ends.LastOutput | None:
        """The last of stderr, else of stdout without telemetry. Blocks."""
        if self._tail is None:
            return None
        data = b""
        with contextlib.suppress(OSError):
            tail = ends.clean_tail(self._tail.last("stderr", ends.TAIL_BYTES))
            if tail.strip():
                return ends.LastOutput(tail, "stderr")
        with contextlib.suppress(OSError):
            data = self._tail.last("stdout", _STDOUT_LOOK)
        if len(data) == _STDOUT_LOOK and b"\n" in data:
            data = data.partition(b"\n")[2]  # its first line is cut, and might have been telemetry
        lines = [line for line in data.split(b"\n") if not is_telemetry(line)]
        tail = ends.clean_tail(b"\n".join(lines))
        return ends.LastOutput(tail, "stdout") if tail else None

    def _intent(self) -> IntentFile | None:
        if self.intent is None:
            self.intent = files.read_intent(self.folder)
        return self.intent

    def close(self) -> None:
        """Let go of its files and its socket; its tasks were cancelled."""
        self._parts.inside.close(self.ref)
        kept = self._parts.gpu_usage.left(self.ref)
        if kept is not None:
            with contextlib.suppress(OSError):  # it is not known then
                files.write_gpu_usage(self.folder, kept)
        if self._tail is not None:
            self._tail.close()


def _nothing() -> None:
    return None
