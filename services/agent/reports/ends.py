"""How an attempt ended: from exit.json to the event that says so. Pure.

Owns that mapping and the clean-up of output tails; knows no file and no NATS.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from events.times import rfc3339
from events.types import (
    Artifacts,
    AttemptEnd,
    AttemptRef,
    Cancelled,
    Completed,
    Failed,
    LastHeartbeat,
    OutputBytes,
    TimedOut,
    WorkerReport,
)
from services.agent.folders.files import ExitFile, ExitReason, HeartbeatFields, StopReason
from trainshed_client.records import NO_USAGE, AttemptUsage
from trainshed_client.statuses import AtFault, CodeSeen, FailureReason

TAIL_BYTES = 8 * 1024


class LastOutput(NamedTuple):
    """The last of what a worker wrote, and to which stream."""

    text: str
    stream: str


def report_of(heartbeat: HeartbeatFields) -> WorkerReport:
    """A shim's heartbeat columns as events bear them."""
    return WorkerReport(
        ready_at=_time(heartbeat.ready_at),
        last_heartbeat_at=_time(heartbeat.last_heartbeat_at),
        step=heartbeat.step,
        progress=heartbeat.progress,
        status_text=heartbeat.status_text,
        primary_metric=heartbeat.primary_metric,
        metrics=heartbeat.metrics,
        passed_over=heartbeat.passed_over,
    )


def last_heartbeat(exit_file: ExitFile, stored: WorkerReport | None, seq: int) -> LastHeartbeat | None:
    """What the end sets for good: the shim's last report where it has one, else the last that was published; None: nothing.

    ``stored`` and ``seq`` are of the last heartbeat that was stored.
    """
    last = exit_file.last_heartbeat
    if last is None and stored is None:
        return None
    report = report_of(last) if last is not None else stored or WorkerReport()
    times = [each.last_heartbeat_at for each in (report, stored) if each is not None]
    at = max((time for time in times if time is not None), default=None)
    return LastHeartbeat(
        ready_at=report.ready_at,
        last_heartbeat_at=at,
        step=report.step,
        progress=report.progress,
        status_text=report.status_text,
        primary_metric=report.primary_metric,
        metrics=report.metrics,
        passed_over=report.passed_over,
        seq=seq,
    )


def completed(event: AttemptEnd) -> bool:
    """Whether the end is a Completed one, which bears what the worker left."""
    return isinstance(event, Completed)


def failed(exit_file: ExitFile) -> bool:
    """Whether the end is a Failed one, which bears the last of the output."""
    return failure(exit_file) is not None


def failure(exit_file: ExitFile) -> FailureReason | None:
    """The reason of a Failed; None for the other ends."""
    if exit_file.stop_reason in (StopReason.CANCEL, StopReason.ENDED):
        return None
    if exit_file.stop_reason is StopReason.RECLAIMED and exit_file.reason is not ExitReason.NOT_STARTED:
        return FailureReason.NODE_RECLAIMED
    match exit_file.reason:
        case ExitReason.EXITED:
            return FailureReason.EXIT_CODE if exit_file.exit_code != 0 else None
        case ExitReason.SIGNALLED:
            return FailureReason.SIGNAL
        case ExitReason.OUT_OF_MEMORY:
            return FailureReason.OUT_OF_MEMORY
        case ExitReason.SPAWN_ERROR:
            return FailureReason.SPAWN_ERROR
        case ExitReason.NOT_STARTED:
            return FailureReason.NOT_STARTED
        case ExitReason.WORKER_TIMEOUT | ExitReason.TIME_LIMIT:
            return None
        case ExitReason.SHIM_LOST | ExitReason.STOPPED | ExitReason.UNSPECIFIED:
            return FailureReason.SHIM_LOST


def had_worker(exit_file: ExitFile) -> bool:
    """Whether a worker was started, as far as is known: else there is no output."""
    return exit_file.reason not in (ExitReason.NOT_STARTED, ExitReason.SPAWN_ERROR)


def end_of(
    ref: AttemptRef,
    exit_file: ExitFile,
    heartbeat: LastHeartbeat | None,
    *,
    code: CodeSeen | None = None,
    artifacts: Artifacts | None = None,
    output: OutputBytes | None = None,
    last_output: LastOutput | None = None,
    message: str | None = None,
    at_fault: AtFault | None = None,
) -> AttemptEnd:
    """The event of an attempt's end. A stop by cancel decides, whatever the exit code (docs/protocol.md rule 3).

    ``message`` and, where no worker was started, ``at_fault`` stand in where exit.json has none. What was told to stop, as by
    a node that leaves, was nobody's fault.
    """
    ran = had_worker(exit_file) and exit_file.reason is not ExitReason.SHIM_LOST
    duration_s = exit_file.duration_s if ran else None
    usage = exit_file.usage if ran else None
    if exit_file.stop_reason in (StopReason.CANCEL, StopReason.ENDED):
        return Cancelled(
            run_id=ref.run_id,
            attempt=ref.attempt,
            duration_s=duration_s,
            last_heartbeat=heartbeat,
            usage=usage,
            code=code,
            output=output,
            reason=exit_file.stop_reason,
            exit_code=exit_file.exit_code,
            signal=exit_file.signal,
        )
    reason = failure(exit_file)
    if reason is not None:
        by_agent = at_fault if reason is FailureReason.NOT_STARTED else None
        return Failed(
            run_id=ref.run_id,
            attempt=ref.attempt,
            duration_s=duration_s,
            last_heartbeat=heartbeat,
            usage=usage,
            code=code,
            output=output,
            failure_reason=reason,
            at_fault=None if exit_file.stop_reason is not None else exit_file.at_fault or by_agent,
            exit_code=exit_file.exit_code,
            signal=exit_file.signal,
            message=exit_file.message or message,
            output_tail=last_output.text if last_output else None,
            output_of=last_output.stream if last_output else None,
        )
    match exit_file.reason:
        case ExitReason.WORKER_TIMEOUT | ExitReason.TIME_LIMIT:
            return TimedOut(
                run_id=ref.run_id,
                attempt=ref.attempt,
                duration_s=duration_s,
                last_heartbeat=heartbeat,
                usage=usage,
                code=code,
                output=output,
                failure_reason=FailureReason(exit_file.reason.value),
                timeout_s=exit_file.timeout_s,
                exit_code=exit_file.exit_code,
                signal=exit_file.signal,
            )
        case _:
            return Completed(
                run_id=ref.run_id,
                attempt=ref.attempt,
                duration_s=duration_s,
                last_heartbeat=heartbeat,
                usage=usage,
                code=code,
                output=output,
                artifacts=artifacts,
            )


def with_gpu_usage(exit_file: ExitFile, usage: AttemptUsage) -> ExitFile:
    """What the shim wrote, with what the agent saw of the attempt's devices."""
    if usage == NO_USAGE:
        return exit_file
    both = replace(
        exit_file.usage or NO_USAGE,
        gpu_busy_s=usage.gpu_busy_s,
        gpu_memory_peak_mb=usage.gpu_memory_peak_mb,
    )
    return replace(exit_file, usage=both)


def clean_tail(data: bytes, limit: int = TAIL_BYTES) -> str:
    """The last of ``data`` as valid text of at most ``limit`` bytes of UTF-8, without nul characters."""
    encoded = data[-limit:].decode("utf-8", "replace").replace("\x00", "\ufffd").encode()
    text = encoded[-limit:].decode("utf-8", "ignore")
    return text.strip("\r\n")


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(int(seconds * 1e9))
