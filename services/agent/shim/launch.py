"""From an attempt's intent to the worker's command: environment, placeholders, secrets, program. No shell, ever.

Owns what a worker is started with; knows no process. Secret values leave only in the returned environment.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat

from services.agent.shim import environment as worker_environment
from services.agent.shim.core_types import Limits, Source
from services.agent.shim.user import ShimUser
from services.agent.shim.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_FILE = "worker_config.json"
MAX_SECRET_BYTES = 128 * 1024
SAMPLE = (
    b'{"boot_id": "b", "run_id": "r", "attempt": 1, "node": "n", "log_id": "l", "launch": {"entry_point": "true",'
    b' "arguments": ["{{run_id}}"], "environment": {"A": "{{attempt}}"}, "stop": {}}, "devices": ["0"],'
    b' "run_dir": "/", "output_dir": "/", "sockets": "/", "heartbeat_timeout_s": 1.0}'
)
"""An intent to go through the motions with."""
_PLACEHOLDER = re.compile(r"\{\{(run_id|attempt|run_dir|node)\}\}")


RUN, NODE = "run", "node"
_OF_THE_NODE = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
    }
)
"""What no run brings about by naming a program or a folder: descriptors, memory or storage of the machine."""


class SpawnError(Exception):
    """The worker cannot be started; the text is for a person and names no secret value.

    `at_fault`: whose trouble it is, the run's (program, folder, secrets) or the node's.
    """

    def __init__(self, text: str, at_fault: str = RUN) -> None:
        super().__init__(text)
        self.at_fault = at_fault


@value
class ShimIntent:
    """What the shim needs of intent.json."""

    run_id: str
    attempt: int
    node: str
    log_id: str
    boot_id: str
    launch: dict[str, object]
    slots: tuple[int, ...]
    devices: tuple[str, ...]
    cpus: int
    memory_mb: int
    threads: int | None
    run_dir: str
    output_dir: str
    sockets: str
    heartbeat_timeout_s: float | None
    socket: str = ""
    programs: str = ""
    user: ShimUser | None = None
    no_new_privs: bool = False
    refusal: str | None = None


@value
class Command:
    """What to exec. The environment may hold secrets, so it is never printed."""

    program: str
    argv: list[str]
    working_dir: str
    environment: dict[str, str]

    def __repr__(self) -> str:
        return f"Command(program={self.program!r}, argv={self.argv!r}, working_dir={self.working_dir!r})"


def read_intent(raw: dict[str, object]) -> ShimIntent:
    """The intent from its JSON. Raises KeyError, TypeError or ValueError where a field is missing or of another kind."""
    timeout, threads = raw.get("heartbeat_timeout_s"), raw.get("threads")
    return ShimIntent(
        run_id=_text(raw["run_id"]),
        attempt=int(str(raw["attempt"])),
        node=_text(raw["node"]),
        log_id=_text(raw["log_id"]),
        boot_id=_text(raw["boot_id"]),
        launch=_object(raw["launch"]),
        slots=tuple(int(str(slot)) for slot in _list(raw.get("slots"))),
        devices=tuple(_texts(raw.get("devices"))),
        cpus=int(str(raw.get("cpus", 1))),
        memory_mb=int(str(raw.get("memory_mb", 0))),
        threads=None if threads is None else int(str(threads)),
        run_dir=_text(raw["run_dir"]),
        output_dir=_text(raw["output_dir"]),
        sockets=_text(raw["sockets"]),
        heartbeat_timeout_s=None if timeout is None else _number(timeout),
        socket=_text(raw.get("socket", "")),
        programs=_text(raw.get("programs", "")),
        user=read_user(raw),
        no_new_privs=raw.get("no_new_privs") is True,
        refusal=None if raw.get("refusal") is None else _text(raw["refusal"]),
    )


def read_user(raw: dict[str, object]) -> ShimUser | None:
    """As whom the worker runs, by its intent's JSON; None: as its shim. Raises KeyError, TypeError or ValueError."""
    if raw.get("user") is None:
        return None
    user = _object(raw["user"])
    return ShimUser(
        name=_text(user["name"]),
        uid=_id(user["uid"]),
        gid=_id(user["gid"]),
        groups=tuple(_id(group) for group in _list(user["groups"])),
        home=_text(user["home"]),
        shell=_text(user["shell"]),
    )


def limits(intent: ShimIntent) -> Limits:
    """Stop and limits of the attempt, defaults filled in (the run config's table)."""
    stop = _object(intent.launch.get("stop"))
    heartbeat = _object(intent.launch.get("heartbeat"))
    duration = _object(intent.launch.get("schedule")).get("max_duration_seconds")
    timeout = heartbeat.get("timeout_s")
    return Limits(
        stop_signal=int(signal.Signals[_text(stop.get("signal", "SIGTERM"))]),
        grace_s=_number(stop.get("grace_s", 5.0)),
        max_duration_s=None if duration is None else _number(duration),
        source=Source(heartbeat.get("source", "process")),
        heartbeat_timeout_s=intent.heartbeat_timeout_s if timeout is None else _number(timeout),
    )


def command(intent: ShimIntent, inherited: Mapping[str, str], folder: str, notify_path: str) -> Command:
    """The worker's command; `inherited` is the agent's environment, `folder` the attempt's (worker_config.json is
    written there, in the current directory), `notify_path` where its datagrams go. Raises SpawnError."""
    fill = _filler(intent)
    worker = intent.launch.get("worker")
    declared = {name: fill(value) for name, value in _strings(intent.launch.get("environment")).items()}
    working_dir = _working_dir(intent)
    environment = _environment(intent, inherited, declared, notify_path)
    entry_point = _text(intent.launch.get("entry_point", ""))
    if isinstance(worker, dict):
        name, arguments = _older_worker(intent, worker, entry_point, environment, folder, fill)
    else:
        name, arguments = entry_point, [fill(text) for text in _texts(intent.launch.get("arguments"))]
    program = _program(name, working_dir, environment["PATH"])
    return Command(program, [name, *arguments], working_dir, environment)


def _environment(
    intent: ShimIntent, inherited: Mapping[str, str], declared: dict[str, str], notify_path: str
) -> dict[str, str]:
    environment = worker_environment.defaults(intent.threads)
    environment.update(worker_environment.inherited_base(inherited))
    if (user := intent.user) is not None:
        environment.update(HOME=user.home, USER=user.name, LOGNAME=user.name, SHELL=user.shell)
    callers_path = intent.launch.get("caller_path")
    if callers_path is not None:
        environment["PATH"] = _text(callers_path)
    if intent.programs:  # last: any other `trainshed` of the caller's comes before it
        environment["PATH"] += os.pathsep + intent.programs
    environment.update(declared)
    for name, source in _object(intent.launch.get("secrets")).items():
        environment[name] = _secret(name, _object(source), inherited, as_another=intent.user is not None)
    environment.update(
        TRAINSHED_LOG_ID=intent.log_id,
        TRAINSHED_RUN_ID=intent.run_id,
        TRAINSHED_ATTEMPT=str(intent.attempt),
        TRAINSHED_NODE=intent.node,
        TRAINSHED_RUN_DIR=intent.run_dir,
        TRAINSHED_CPUS=str(intent.cpus),
        TRAINSHED_MEMORY_MB=str(intent.memory_mb),
        TRAINSHED_SLOTS=",".join(map(str, intent.slots)),
        CUDA_VISIBLE_DEVICES=",".join(intent.devices),
        CUDA_DEVICE_ORDER="PCI_BUS_ID",
        NOTIFY_SOCKET=notify_path,
    )
    if intent.socket:
        environment["TRAINSHED_SOCKET"] = intent.socket
    max_steps = _object(intent.launch.get("schedule")).get("max_steps")
    if max_steps is not None:
        environment["TRAINSHED_MAX_STEPS"] = str(max_steps)
    kept = limits(intent)
    if kept.source is Source.NOTIFY and kept.heartbeat_timeout_s is not None:
        environment["WATCHDOG_USEC"] = str(int(kept.heartbeat_timeout_s * 1_000_000))
    return environment


def _secret(name: str, source: dict[str, object], inherited: Mapping[str, str], *, as_another: bool) -> str:
    variable, path = source.get("env"), source.get("file")
    if isinstance(variable, str):
        if as_another and variable.startswith(worker_environment.OWN_PREFIXES):
            raise SpawnError(f"secret {name}: {variable} is the agent's own; name another variable")
        if variable not in inherited:
            raise SpawnError(f"secret {name}: {variable} is not set in the agent's environment")
        return inherited[variable]
    if not isinstance(path, str):
        raise SpawnError(f"secret {name}: neither `file` nor `env` is given")
    try:
        # Not blocking: a pipe without a writer must not hold the attempt up.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1) or b""
    except (OSError, ValueError) as error:
        raise SpawnError(f"secret {name}: {path}: {why(error)}") from None
    if len(data) > MAX_SECRET_BYTES:
        raise SpawnError(f"secret {name}: {path}: over {MAX_SECRET_BYTES // 1024} KiB")
    value = data.removesuffix(b"\n").removesuffix(b"\r")
    if b"\0" in value:
        raise SpawnError(f"secret {name}: {path}: holds a nul byte")
    return os.fsdecode(value)


def _older_worker(
    intent: ShimIntent,
    worker: dict[str, object],
    entry_point: str,
    environment: dict[str, str],
    folder: str,
    fill: Filler,
) -> tuple[str, list[str]]:
    """`metadata.worker` decides where it is present; `entry_point` then only names the Python to use."""
    python = entry_point if entry_point.rpartition("/")[2].startswith("python") else "python3"
    module, script = worker.get("module"), worker.get("script")
    arguments = ["-m", _text(module)] if module is not None else [_text(script)]
    arguments += [fill(text) for text in _texts(worker.get("arguments"))]
    config = worker.get("config")
    if config is not None:
        filled = {**_object(_fill_all(config, fill)), "run_id": intent.run_id}
        # Another user's worker reads nothing in the attempt's folder; his place for output is his own.
        path = f"{folder if intent.user is None else intent.output_dir}/{CONFIG_FILE}"
        with open(path, "w", encoding="utf-8") as file:
            json.dump(filled, file)
        arguments += ["--config", path]
        environment["TRAINER_WORKER_CONFIG_PATH"] = path
    worker_id = worker.get("worker_id")
    if worker_id is not None:
        arguments += ["--worker-id", str(worker_id)]
        environment["WORKER_ID"] = str(worker_id)
    return python, arguments


def _working_dir(intent: ShimIntent) -> str:
    named = intent.launch.get("working_dir")
    path = intent.run_dir if named is None else _text(named)
    label = "the run's folder" if named is None else "working_dir"
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError) as error:
        cause = "no such folder" if isinstance(error, FileNotFoundError) else why(error)
        raise SpawnError(f"{label} {path}: {cause}", NODE if named is None else fault(error)) from None
    if not is_folder:
        raise SpawnError(f"{label} {path}: not a folder", NODE if named is None else RUN)
    return path


def _program(name: str, working_dir: str, search: str) -> str:
    """The file to exec: absolute, relative to the working directory, or looked up in PATH."""
    if not name:
        raise SpawnError("entry_point is missing")
    if "/" in name:
        path = os.path.join(working_dir, name)
        unusable = _unusable(path)
        if unusable is not None:
            raise unusable
        return path
    refused: SpawnError | None = None
    for folder in search.split(os.pathsep):
        path = os.path.join(working_dir, folder, name)
        unusable = _unusable(path)
        if unusable is None:
            return path
        if not str(unusable).endswith(": no such file"):
            refused = refused or unusable
    raise refused or SpawnError(f"{name}: no such file in PATH ({search})")


def _unusable(path: str) -> SpawnError | None:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        return SpawnError(f"{path}: {why(error)}", fault(error))
    if stat.S_ISDIR(mode):
        return SpawnError(f"{path}: a folder, not a program")
    return None if os.access(path, os.X_OK) else SpawnError(f"{path}: not executable")


def fault(error: Exception) -> str:
    """Whose trouble an error is that using what the run names met with."""
    return NODE if isinstance(error, OSError) and error.errno in _OF_THE_NODE else RUN


def why(error: Exception) -> str:
    """The cause of an OSError in plain words, without the path that the message already names."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error)


if TYPE_CHECKING:
    from collections.abc import Callable

    Filler = Callable[[str], str]


def _filler(intent: ShimIntent) -> Filler:
    values = {
        "run_id": intent.run_id,
        "attempt": str(intent.attempt),
        "run_dir": intent.run_dir,
        "node": intent.node,
    }
    return lambda text: _PLACEHOLDER.sub(lambda match: values[match[1]], text) if "{{" in text else text


def _fill_all(value: object, fill: Filler) -> object:
    if isinstance(value, str):
        return fill(value)
    if isinstance(value, dict):
        return {name: _fill_all(item, fill) for name, item in value.items()}
    if isinstance(value, list):
        return [_fill_all(item, fill) for item in value]
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a string was expected, not {type(value).__name__}")
    return value


def _texts(value: object) -> list[str]:
    return [_text(item) for item in _list(value)]


def _list(value: object) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError(f"a list was expected, not {type(value).__name__}")
    return value


def _object(value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {type(value).__name__}")
    return value


def _strings(value: object) -> dict[str, str]:
    return {name: _text(item) for name, item in _object(value).items()}


def _id(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"a user or a group was expected, not {value!r}")  # -1 would change nothing
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"a number was expected, not {type(value).__name__}")
    return float(value)
