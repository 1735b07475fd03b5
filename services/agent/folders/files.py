"""The files of an attempt's folder as the agent sees them: typed records, written and read.

Owns their fields, names and how they are written (docs/protocol.md rules 9 and 10); knows no process and no NATS.
"""

from __future__ import annotations

import contextlib
import enum
import os
import time
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from trainshed_client.not_finite import JsonNumber
from trainshed_client.records import AttemptUsage
from trainshed_client.statuses import AtFault, CodeSeen

LOCK: Final = "lock"
INTENT: Final = "intent.json"
STARTED: Final = "started.json"
STOP: Final = "stop.json"
EXIT: Final = "exit.json"
GPU_USAGE: Final = "gpu_usage.json"
CODE: Final = "code.json"
STARTED_TEMPORARY: Final = ".started.json.tmp"
"""What the shim writes before it renames it; it may be there ahead."""


class StopReason(enum.StrEnum):
    """Why an attempt is to stop."""

    CANCEL = "cancel"
    ENDED = "ended"
    RECLAIMED = "reclaimed"
    UNSPECIFIED = "UNSPECIFIED"

    @classmethod
    def _missing_(cls, value: object) -> StopReason:
        return cls.UNSPECIFIED


class ExitReason(enum.StrEnum):
    """What decided an attempt's end."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    WORKER_TIMEOUT = "worker_timeout"
    TIME_LIMIT = "time_limit"
    OUT_OF_MEMORY = "out_of_memory"
    SPAWN_ERROR = "spawn_error"
    STOPPED = "stopped"
    NOT_STARTED = "not_started"
    SHIM_LOST = "shim_lost"
    UNSPECIFIED = "UNSPECIFIED"

    @classmethod
    def _missing_(cls, value: object) -> ExitReason:
        return cls.UNSPECIFIED


class WorkerUser(msgspec.Struct, frozen=True, kw_only=True):
    """As whom a worker runs, as the machine knows that user."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


class IntentFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent wants started; `seq` is its Dispatched's. Written before Dispatched is acknowledged."""

    v: int = 1
    seq: int
    boot_id: str
    run_id: str
    attempt: int
    node: str
    host: str
    log_id: str
    launch: dict[str, Any]
    slots: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    """Values for CUDA_VISIBLE_DEVICES."""
    cpus: int = 1
    memory_mb: int = 0
    threads: int | None = None
    """What libraries are told to start; None in what an older agent wrote."""
    run_dir: str
    output_dir: str
    """Where stdout.log and stderr.log go; made by the agent."""
    sockets: str
    """Folder of the Unix sockets (`Workers.sockets_dir`)."""
    socket: str = ""
    """Where the worker reaches the stack; empty where an earlier release wrote this."""
    programs: str = ""
    """Folder at the end of the worker's PATH, with the command line alone in it."""
    heartbeat_timeout_s: float | None = None
    """The node's, for a run that names none."""
    user: WorkerUser | None = None
    """As whom the worker runs; None: as the agent does."""
    no_new_privs: bool = False
    """Whether no program that the worker starts may gain rights by it."""
    refusal: str | None = None
    """Why no worker of this run is started here, for people; its shim says so in exit.json."""


class StartedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that was about to exec; start times are clock ticks since boot, `started_at` Unix seconds."""

    v: int = 1
    boot_id: str
    pid: int
    start_time: int
    shim_pid: int
    shim_start_time: int
    cgroup: str = ""
    """Of the worker and all that it forks; empty where it has none of its own."""
    memory_cgroup: str = ""
    """The one in which its memory counts, perhaps the same; empty where it has none."""
    memory_enforced: bool | None = None
    """Whether the kernel holds it to its `memory_mb`; None where it asked for none."""
    started_at: float


class StopFile(msgspec.Struct, frozen=True, kw_only=True):
    """The order to stop; `seq` is the Stopping's, 0 for the agent's own."""

    v: int = 1
    reason: StopReason
    seq: int = 0


class HeartbeatFields(msgspec.Struct, frozen=True, kw_only=True):
    """The heartbeat columns: all that a worker reported so far, times in Unix seconds."""

    ready_at: float | None = None
    last_heartbeat_at: float | None = None
    step: int | None = None
    progress: float | None = None
    status_text: str | None = None
    primary_metric: str | None = None
    metrics: dict[str, JsonNumber] = {}
    passed_over: dict[str, str] = {}


class ExitFile(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended; written once, under the lock, when its whole tree is gone.

    `exit_code` and `signal` are the worker's own also where `reason` says that it was stopped or timed out.
    `duration_s` counts from exec to the worker's end, `ended_at` is in Unix seconds. Of `usage` the shim measures CPU
    and memory.
    """

    v: int = 1
    exit_code: int | None = None
    signal: int | None = None
    reason: ExitReason
    stop_reason: StopReason | None = None
    message: str | None = None
    at_fault: AtFault | None = None
    timeout_s: float | None = None
    duration_s: float = 0.0
    ended_at: float
    last_heartbeat: HeartbeatFields | None = None
    usage: AttemptUsage | None = None


class CodeFile(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of the run's code beside the worker's start; the agent's, for an end that comes after its restart."""

    v: int = 1
    seen: CodeSeen


class PrunedUpTo(msgspec.Struct, frozen=True, kw_only=True):
    """The folders of a run's attempts up to this one were deleted at that time (RFC 3339)."""

    attempt: int
    at: str


class PrunedFile(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the place of pruned folders: which attempts they were of, the oldest pruning first."""

    v: int = 1
    pruned: tuple[PrunedUpTo, ...] = ()


class PruneRootsFile(msgspec.Struct, frozen=True, kw_only=True):
    """The folders, also of earlier settings, in which run, output or attempt folders may wait for their deletion."""

    v: int = 1
    roots: tuple[str, ...] = ()


class GpuUsageFile(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt used of its devices while an agent saw it, for the one after that; `at` is CLOCK_BOOTTIME in seconds."""

    v: int = 1
    at: float
    busy_s: float | None = None
    peak_mb: int | None = None


T = TypeVar(
    "T", IntentFile, StartedFile, StopFile, ExitFile, PrunedFile, PruneRootsFile, CodeFile, GpuUsageFile
)


def prepare_folder(folder: Path) -> None:
    """Make the attempt's folder and its lock file; both may exist. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    os.close(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))


def write_intent(folder: Path, intent: IntentFile) -> None:
    """Write intent.json whole or not at all, without fsync. Raises OSError."""
    _write(folder / INTENT, intent, durable=False)


def write_gpu_usage(folder: Path, record: GpuUsageFile) -> None:
    """Write gpu_usage.json whole or not at all, without fsync: it only has to outlive the process. Raises OSError."""
    _write(folder / GPU_USAGE, record, durable=False)


def take_gpu_usage(folder: Path) -> GpuUsageFile | None:
    """What an agent left there, once: by what it left before that nothing is known of the time since."""
    record = _read(folder / GPU_USAGE, GpuUsageFile)
    with contextlib.suppress(OSError):
        os.unlink(folder / GPU_USAGE)
    return record


def write_stop(folder: Path, reason: StopReason, seq: int) -> None:
    """Write stop.json whole or not at all, without fsync; then `Workers.ask_stop`. Raises OSError."""
    _write(folder / STOP, StopFile(reason=reason, seq=seq), durable=False)


def write_exit(folder: Path, record: ExitFile) -> None:
    """Write exit.json with fsync. Only for who holds the lock and has swept the tree. Raises OSError."""
    _write(folder / EXIT, record, durable=True)


def write_code(folder: Path, seen: CodeSeen) -> None:
    """Write code.json whole or not at all, without fsync. Raises OSError."""
    _write(folder / CODE, CodeFile(seen=seen), durable=False)


def write_pruned(path: Path, record: PrunedFile) -> None:
    """Write it whole or not at all, without fsync: it only has to outlive the process. Raises OSError."""
    _write(path, record, durable=False)


def read_pruned(path: Path) -> PrunedFile | None:
    """What was pruned of a run; None where nothing was."""
    return _read(path, PrunedFile)


def write_prune_roots(path: Path, record: PruneRootsFile) -> None:
    """Write it whole or not at all, without fsync. Raises OSError."""
    _write(path, record, durable=False)


def read_prune_roots(path: Path) -> PruneRootsFile | None:
    """The folders; None where none were written down."""
    return _read(path, PruneRootsFile)


def not_started(stop_reason: StopReason | None = None, message: str | None = None) -> ExitFile:
    """The end of an attempt that never had a worker."""
    return ExitFile(
        reason=ExitReason.NOT_STARTED, stop_reason=stop_reason, message=message, ended_at=time.time()
    )


def read_intent(folder: Path) -> IntentFile | None:
    """The intent; None where there is none that can be read (see `_read`)."""
    return _read(folder / INTENT, IntentFile)


def read_started(folder: Path) -> StartedFile | None:
    """started.json; None where there is none that can be read (see `_read`)."""
    return _read(folder / STARTED, StartedFile)


def read_stop(folder: Path) -> StopFile | None:
    """stop.json; None where there is none that can be read (see `_read`)."""
    return _read(folder / STOP, StopFile)


def read_exit(folder: Path) -> ExitFile | None:
    """exit.json; None where there is none that can be read (see `_read`)."""
    return _read(folder / EXIT, ExitFile)


def read_code_seen(folder: Path) -> CodeSeen | None:
    """What was seen; None where nothing was written down."""
    record = _read(folder / CODE, CodeFile)
    return None if record is None else record.seen


def _read(path: Path, kind: type[T]) -> T | None:
    """The record; None where the file is absent, and also where it is empty or torn.

    Files are renamed into place, so only a power cut before the fsync leaves a torn one; what was in it then died
    with that boot, and "absent" is the right reading for every caller. Unknown fields are left alone.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def write_all(fd: int, record: msgspec.Struct) -> None:
    """Write all of the record's JSON. Raises OSError."""
    data = memoryview(msgspec.json.encode(record))
    while data:
        data = data[os.write(fd, data) :]


def _write(path: Path, record: msgspec.Struct, *, durable: bool) -> None:
    temporary = f"{path.parent}/.{path.name}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        write_all(fd, record)
        if durable:
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(fd)
