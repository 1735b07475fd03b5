"""What a shim's step takes and gives: limits, the state of one attempt, inputs and actions.

Owns what these values mean; decides nothing (`core` does) and knows no clock, process, file or socket.
"""

from __future__ import annotations

import enum

from services.agent.shim.values import value

KILL_AGAIN_S = 0.05
"""Seconds from one SIGKILL of the whole tree to the next; doubled each time up to `core.KILL_AGAIN_MAX_S`."""


class Source(enum.Enum):
    """What counts as a sign of life (`heartbeat.source`)."""

    PROCESS = "process"
    OUTPUT = "output"
    NOTIFY = "notify"


class ShimPhase(enum.Enum):
    """Where the attempt is; it only ever moves forward."""

    COMING_UP = "coming_up"  # the worker has not been seen to exec
    RUNNING = "running"
    ENDING = "ending"  # the tree has its stop signal, grace runs
    KILLING = "killing"  # grace is over, SIGKILL until the tree is gone
    GONE = "gone"  # exit.json is written, nothing counts any more


class Reason(enum.Enum):
    """What decided the end (`reason` in exit.json); the agent's own `not_started` and `shim_lost` are not the shim's to give."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    WORKER_TIMEOUT = "worker_timeout"
    TIME_LIMIT = "time_limit"
    OUT_OF_MEMORY = "out_of_memory"
    SPAWN_ERROR = "spawn_error"
    STOPPED = "stopped"


class PassedOver(enum.Enum):
    """Why something that a worker told was not taken."""

    VALUE = "value"  # none that its key takes
    NAME = "name"  # none that a metric or X_PRIMARY may have
    KEY = "key"  # neither ours nor systemd's
    TOO_MANY = "too_many"  # a metric beyond those that an attempt may have
    CUT = "cut"  # what came after the longest datagram that is read


@value
class Limits:
    """What the run config says about stop and limits; times in seconds."""

    stop_signal: int = 15
    grace_s: float = 5.0
    max_duration_s: float | None = None
    source: Source = Source.PROCESS
    heartbeat_timeout_s: float | None = None


@value
class ShimHeartbeat:
    """All that the worker reported so far; times on the clock of the inputs."""

    ready_at: float | None = None
    last_heartbeat_at: float | None = None
    step: int | None = None
    progress: float | None = None
    status_text: str | None = None
    primary_metric: str | None = None
    metrics: tuple[tuple[str, float], ...] = ()
    passed_over: tuple[tuple[PassedOver, str], ...] = ()  # the first of each kind


@value
class Fields:
    """What one datagram holds; None or empty where it holds nothing.

    `alive`: whether anything of it was taken. `passed_over`: the first of each kind that was not, as the worker sent it.
    """

    alive: bool = True
    ready: bool = False
    step: int | None = None
    progress: float | None = None
    status_text: str | None = None
    primary_metric: str | None = None
    metrics: tuple[tuple[str, float], ...] = ()
    passed_over: tuple[tuple[PassedOver, str], ...] = ()


@value
class ShimState:
    """Everything that decides the next action."""

    limits: Limits
    phase: ShimPhase = ShimPhase.COMING_UP
    released_at: float = 0.0
    alive_at: float = 0.0  # last sign of life
    due: float | None = None  # end of grace, then the next SIGKILL
    kill_again_s: float = KILL_AGAIN_S
    reason: Reason | None = None
    timeout_s: float | None = None
    message: str | None = None  # of the end
    stop_reason: str | None = None
    worker_gone_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    heartbeat: ShimHeartbeat = ShimHeartbeat()
    sent_at: float | None = None
    unsent: bool = False
    handed_in: int = -1  # where the last line of stdout begins that counted


# Inputs: what happened. `now` is CLOCK_BOOTTIME in seconds.
@value
class Released:
    """The worker has exec'd."""

    now: float
    pid: int


@value
class ExecFailed:
    """There will be no worker; `message` says why, for a person, and `at_fault` whose trouble it is: run or node."""

    now: float
    message: str
    at_fault: str = "run"


@value
class EndedBeforeExec:
    """The process that was to become the worker was killed on its way there: no end is ours to write, it never ran."""


@value
class WorkerExited:
    """The worker itself is gone; what it forked may live on.

    `out_of_memory`: why the kernel ended a process of the tree, for a person; None: it did not.
    """

    now: float
    exit_code: int | None
    signal: int | None
    out_of_memory: str | None = None


@value
class OutOfMemory:
    """The kernel ended a process of the tree; `message` says why, for a person."""

    now: float
    message: str


@value
class Notified:
    """A datagram that tells something, were it only what cannot be taken."""

    now: float
    fields: Fields


@value
class HandedIn:
    """A line of stdout, from byte `offset` on, that says what the worker measured: the agent hands it in."""

    now: float
    offset: int
    fields: Fields


@value
class OutputGrew:
    """The answer to CheckOutput: by the looks at it, output last grew at `grew_at`."""

    now: float
    grew_at: float


@value
class StopAsked:
    """stop.json stands in the attempt's folder."""

    now: float
    reason: str


@value
class Tick:
    """Time has passed."""

    now: float


@value
class TreeGone:
    """No process of the attempt is left, the worker included."""

    now: float


Input = (
    Released
    | ExecFailed
    | EndedBeforeExec
    | WorkerExited
    | OutOfMemory
    | Notified
    | HandedIn
    | OutputGrew
    | StopAsked
    | Tick
    | TreeGone
)


# Actions: what to do about it, in order.
@value
class SignalTree:
    """Send the signal to every process of the tree, once."""

    signal: int


@value
class KillTree:
    """SIGKILL every process of the tree; asked again until TreeGone."""


@value
class CheckOutput:
    """Look whether output grew, and answer with OutputGrew."""


@value
class KeepMetrics:
    """A message bore a step or a metric: have it written to metrics.jsonl as it was."""

    step: int | None
    progress: float | None
    metrics: tuple[tuple[str, float], ...]
    offset: int | None = None


class ShimMessage(enum.Enum):
    """What is sent to the agent."""

    STARTED = "started"
    HEARTBEAT = "heartbeat"
    METRICS = "metrics"  # metrics.jsonl has grown
    EXITED = "exited"


@value
class SendToAgent:
    """A datagram to the agent; losing it is harmless."""

    message: ShimMessage


@value
class WriteExit:
    """Write exit.json: the attempt is over. `duration_s` counts from exec to the worker's own end."""

    reason: Reason
    exit_code: int | None
    signal: int | None
    stop_reason: str | None
    message: str | None
    timeout_s: float | None
    duration_s: float
    at_fault: str | None = None


Action = SignalTree | KillTree | CheckOutput | KeepMetrics | SendToAgent | WriteExit
Step = tuple[ShimState, tuple[Action, ...]]
