"""The run config as a typed, frozen value: its fields, defaults and normal form.

Owns what a config means once accepted; knows nothing of text, of what is refused, or of the log.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.json_limits import MAX_INTEGER
from trainshed_client.provenance import Code

RUN_NAME_LENGTH = 120
"""The most characters of a run's name."""

RETRY_ON = (
    "exit_code",
    "signal",
    "worker_timeout",
    "spawn_error",
    "shim_lost",
    "node_lost",
    "node_reclaimed",
)
"""The default of ``retry.on``."""

# A default, once released, never changes: it is left out of the stored config and so decides digests.
# Every field of these structs has a default for the same reason, and each keeps the wire's word as a
# plain string: the words of a newer release must not stop a reader.


class GpusConfig(msgspec.Struct, frozen=True, gc=False):
    """GPUs asked for: so many different devices, of each one slot, or with ``whole`` all of its slots.

    With ``mandatory`` false the run starts with fewer, or none, rather than wait.
    """

    requested: int = 0
    mandatory: bool = True
    whole: bool = False


class Resources(msgspec.Struct, frozen=True):
    """What one attempt holds of its node; ``memory_mb`` 0 means that memory is not accounted."""

    cpus: int = 1
    memory_mb: int = 0
    gpus: GpusConfig = GpusConfig()


class ArtifactsConfig(msgspec.Struct, frozen=True, gc=False):
    """Kept for the clients that send it: shown, not acted on."""

    output_prefix: str = ""
    persist_logs: bool = True
    keep_checkpoints: bool = True


class Schedule(msgspec.Struct, frozen=True, gc=False):
    """Limits of an attempt: seconds from exec (enforced by the shim), and steps (only told to the worker)."""

    max_duration_seconds: float | None = None
    max_steps: int | None = None


class RetryPolicy(msgspec.Struct, frozen=True):
    """When a failed attempt is followed by another; ``backoff_s`` seconds after its end, constant."""

    max_attempts: int = 1
    backoff_s: float = 10.0
    on: tuple[str, ...] = RETRY_ON


class StopPolicy(msgspec.Struct, frozen=True, gc=False):
    """How the worker's tree is stopped: the signal, and seconds until SIGKILL."""

    signal: str = "SIGTERM"
    grace_s: float = 5.0


class HeartbeatConfig(msgspec.Struct, frozen=True, gc=False):
    """What counts as a sign of life, and seconds of silence that end an attempt (None: the node's)."""

    source: str = "process"
    timeout_s: float | None = None


class Secret(msgspec.Struct, frozen=True, gc=False):
    """Where the node finds a secret's value: exactly one of a file's path and a variable's name."""

    file: str | None = None
    env: str | None = None


class Needs(msgspec.Struct, frozen=True, gc=False):
    """What the scheduler looks at, flat."""

    cpus: int
    memory_mb: int
    gpus: int
    mandatory: bool
    whole: bool = False


def needs_of(resources: Resources) -> Needs:
    """What an attempt with these resources takes of a node."""
    gpus = resources.gpus
    return Needs(resources.cpus, resources.memory_mb, gpus.requested, gpus.mandatory, gpus.whole)


class RunConfig(msgspec.Struct, frozen=True):
    """A checked run config with every default filled in (docs: the run config's table).

    ``run_name`` is None where it is the derived one: read ``name``. ``metadata`` is as sent.
    """

    run_name: str | None = None
    entry_point: str | None = None
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    labels: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    working_dir: str | None = None
    resources: Resources = Resources()
    artifacts: ArtifactsConfig = ArtifactsConfig()
    schedule: Schedule = Schedule()
    priority: int = 0
    retry: RetryPolicy = RetryPolicy()
    stop: StopPolicy = StopPolicy()
    heartbeat: HeartbeatConfig = HeartbeatConfig()
    after: tuple[str, ...] = ()
    secrets: dict[str, Secret] = {}
    submission_key: str | None = None
    code: Code | None = None

    @property
    def name(self) -> str:
        """The run's name: ``run_name``, else the derived one."""
        return self.run_name if self.run_name is not None else self.default_name

    @property
    def default_name(self) -> str:
        """Last part of the worker's module or script, where there is one, else of ``entry_point``."""
        worker = self.worker or {}
        if module := _string(worker.get("module")):
            return _last_part(module, ".")
        return _last_part(_string(worker.get("script")) or self.entry_point or "", "/")

    @property
    def worker(self) -> dict[str, Any] | None:
        """``metadata.worker``, the older way to name the worker; where present it decides."""
        worker = self.metadata.get("worker")
        return worker if isinstance(worker, dict) else None

    @property
    def command(self) -> list[str]:
        """The command to show; the node adds an older worker's ``--config`` and ``--worker-id`` itself."""
        entry_point = self.entry_point or ""
        worker = self.worker
        if worker is None:
            return [entry_point, *self.arguments]
        python = entry_point if entry_point.rpartition("/")[2].startswith("python") else "python3"
        given = worker.get("arguments")
        arguments = [_string(argument) for argument in given] if isinstance(given, list) else []
        if module := _string(worker.get("module")):
            return [python, "-m", module, *arguments]
        return [python, _string(worker.get("script")), *arguments]

    @property
    def needs(self) -> Needs:
        """What an attempt takes of a node."""
        return needs_of(self.resources)

    @property
    def max_duration_seconds(self) -> float | None:
        """Seconds an attempt may run, from exec; None without a limit."""
        return self.schedule.max_duration_seconds

    def normalised(self) -> dict[str, object]:
        """The config without all that equals its default, as it is stored and digested.

        Plain JSON values; numbers that are whole are integers, so 5 and 5.0 are stored alike.
        """
        normalised = _without_defaults(self)
        if self.run_name == self.default_name:
            normalised.pop("run_name", None)
        return normalised

    def launch(self) -> dict[str, object]:
        """What a node needs to start the worker: ``launch`` of Dispatched, defaults left out."""
        normalised = self.normalised()
        launch = {name: normalised[name] for name in _LAUNCH if name in normalised}
        if self.worker is not None:
            launch["worker"] = self.worker
        return launch


_LAUNCH = (
    "entry_point",
    "arguments",
    "environment",
    "working_dir",
    "secrets",
    "schedule",
    "stop",
    "heartbeat",
    "code",
)


_DECODER = msgspec.json.Decoder(RunConfig)


def stored_config(normalised: object) -> RunConfig:
    """Read what the log holds, as plain values or (faster) as JSON bytes or ``msgspec.Raw``.

    Lenient, for it was checked when it was accepted: defaults are filled in, unknown fields passed over.
    Raises TrainshedError (invalid) where a field's type is wrong all the same.
    """
    try:
        if isinstance(normalised, bytes | msgspec.Raw):
            return _DECODER.decode(normalised)
        return msgspec.convert(normalised, RunConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TrainshedError(ErrorCode.INVALID, f"not a stored run config: {error}") from error


def _string(value: object) -> str:
    """Metadata is checked at submission; a log that was written by others must not stop a reader."""
    return value if isinstance(value, str) else ""


def _last_part(text: str, separator: str) -> str:
    return (text.rstrip(separator).rpartition(separator)[2] or text)[:RUN_NAME_LENGTH]


@functools.cache
def _default(kind: type[msgspec.Struct]) -> msgspec.Struct:
    return kind()


def _without_defaults(value: msgspec.Struct) -> dict[str, object]:
    default = _default(type(value))
    return {
        name: _plain(mine)
        for name in value.__struct_fields__
        if (mine := getattr(value, name)) != getattr(default, name)
    }


def _plain(value: object) -> object:
    match value:
        case msgspec.Struct():
            return _without_defaults(value)
        case tuple():
            return list(value)
        case dict():  # of strings, of Secret, or metadata, whose values stay as sent
            return {
                name: _without_defaults(item) if isinstance(item, msgspec.Struct) else item
                for name, item in value.items()
            }
        case float() if value.is_integer() and abs(value) <= MAX_INTEGER:
            return int(value)
        case _:
            return value
