"""What the API's calls answer, as typed values.

Owns the shapes of answers; knows neither NATS nor how they are asked for.
"""

from __future__ import annotations

from typing import Any, Optional

import msgspec

from trainshed_client.errors import ErrorCode, TrainshedError, WrongField
from trainshed_client.fold_progress import FoldProgress
from trainshed_client.records import (
    AttemptRecord,
    ListedSlotRecord,
    NodeRecord,
    QueuedRunRecord,
    TimelineEntry,
    Wait,
    shown,
)
from trainshed_client.statuses import NodeStatus, RunStatus
from trainshed_client.times import Time


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a submit. ``created`` is false where the config was a run already; ``seq``: of its Submitted."""

    run_id: str
    digest: str
    created: bool
    status: RunStatus
    seq: int

    __repr__ = shown


class Submissions(msgspec.Struct, frozen=True):
    """The answer to a batch: one submission a config, in order."""

    runs: list[Submission]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What a submit would do. ``status`` is that of the run that exists; ``nodes`` could hold the run when empty."""

    run_id: str
    digest: str
    new: bool
    status: Optional[RunStatus] = None
    nodes: list[str] = msgspec.field(default_factory=list)


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a cancel or a retry: the run's status, and the sequence it is true at."""

    run_id: str
    status: RunStatus
    seq: int


class NodeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to drain, resume and remove."""

    node: str
    status: NodeStatus
    seq: int


class PruneKept(msgspec.Struct, frozen=True, kw_only=True):
    """A run of which a node kept something, and why."""

    run_id: str
    reason: str


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What one call had a node delete, or would have: ``bytes`` as they lie on its disk.

    ``handled``: how many of the runs that were asked for, in their order, were looked at.
    """

    node: str
    handled: int
    runs: list[str]
    bytes: int
    kept: list[PruneKept] = msgspec.field(default_factory=list)
    v: int = 1


class RunFolder(msgspec.Struct, frozen=True, kw_only=True):
    """Where an attempt's run has its folder on its node, and how much is in it.

    ``exists``: whether it is (still) there. ``output``: the folder of stdout.log and stderr.log; ``output_bytes`` how long
    each is, None where it is not there. ``artifacts`` and ``artifacts_bytes``: the files in artifacts/ and their sizes
    together; ``partial``: there are more, which there was no time to count.
    """

    node: str
    host: str
    folder: str
    exists: bool
    output: str
    output_bytes: dict[str, Optional[int]] = msgspec.field(default_factory=dict)
    artifacts: int = 0
    artifacts_bytes: int = 0
    partial: bool = False
    v: int = 1


class ArtifactFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a worker left, by its path below artifacts/. ``sha256``: as it was at the end, None where not known."""

    path: str
    bytes: int
    sha256: Optional[str] = None


class ArtifactPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Files in the order of their folders; ``next``: what to ask for to go on, None with the last."""

    node: str
    artifacts: list[ArtifactFile]
    next: Optional[str] = None
    v: int = 1


class OutputNow(msgspec.Struct, frozen=True, kw_only=True):
    """How large the files of an attempt's output are; None: there is none."""

    stdout: Optional[int] = None
    stderr: Optional[int] = None


class FileNow(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it is on its node's disk. ``bytes`` is None where there is none; ``sha256`` also of more than 64 MiB."""

    path: str
    bytes: Optional[int] = None
    sha256: Optional[str] = None


class AttemptFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt left, as it is on its node's disk: output, ``list`` (artifacts.json), and the files that were asked for.

    ``pruned_at``: when all of it was deleted by `trainshed prune`; ``error``: why it cannot be read.
    """

    run_id: str
    attempt: int
    output: OutputNow = OutputNow()
    list: Optional[FileNow] = None
    artifacts: tuple[FileNow, ...] = ()
    pruned_at: Optional[Time] = None
    error: Optional[str] = None


class NodeFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What one call had a node look at, in the order of the question.

    ``handled``: of how many attempts all that was asked for is there; of the one after these perhaps the first files.
    """

    node: str
    incarnation: str
    handled: int
    attempts: list[AttemptFiles] = msgspec.field(default_factory=list)
    v: int = 1


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What every query's answer bears: the log sequence it is true at.

    ``stale``: the read model had not yet seen everything that was acknowledged before the question, but ``progress``.
    """

    seq: int
    v: int = 1
    stale: bool = False
    progress: Optional[FoldProgress] = None


class RunPage(Answer, frozen=True, kw_only=True):
    """One page of runs, newest first, each as the server's own JSON (``records`` decodes them).

    ``total``: how many match in all pages together; only the first page tells it.
    """

    runs: list[msgspec.Raw]
    total: Optional[int] = None

    @property
    def records(self) -> list[QueuedRunRecord]:
        """The page's runs."""
        return [_RUN.decode(raw) for raw in self.runs]


class RunView(Answer, frozen=True, kw_only=True):
    """Everything about one run; ``config`` is the normalised run config."""

    run: QueuedRunRecord
    config: dict[str, Any]
    attempts: list[AttemptRecord]
    timeline: list[TimelineEntry]

    __repr__ = shown


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that holds what a waiting run lacks: where, since when (its grant, then its worker's start), and
    ``ends_by`` when it has ended by its time limit; None without one."""

    run_id: str
    name: str
    node: str
    slots: list[int] = msgspec.field(default_factory=list)
    cpus: int = 0
    memory_mb: int = 0
    since: Time
    ends_by: Optional[Time] = None


class Reserved(msgspec.Struct, frozen=True, kw_only=True):
    """The first run in the queue that has to wait, and the node kept for it; ``starts_by``: at the latest, if known."""

    run_id: str
    name: str
    node: str
    starts_by: Optional[Time] = None


class SuspectNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node that could start none of the last three runs: since when, why not the last, and when one is tried there.

    ``probe_at`` is None while one is being tried.
    """

    node: str
    since: Time
    why: str
    probe_at: Optional[Time] = None


class Waiting(Wait, frozen=True, kw_only=True):
    """What a PENDING run waits for. ``place``: from 1 on, in the order of the queue; None while it is not in it.

    ``of``: how many are in the queue. ``avoids``: nodes that could not start it, while another could hold it. ``commands``: what would help, if it is wanted. ``text``: the reason as text.
    """

    text: str = ""
    of: int
    place: Optional[int] = None
    reservation: Optional[Reserved] = None
    holders: list[Holder] = msgspec.field(default_factory=list)
    holders_total: int = 0
    suspects: list[SuspectNode] = msgspec.field(default_factory=list)
    avoids: list[str] = msgspec.field(default_factory=list)
    commands: list[str] = msgspec.field(default_factory=list)


class Explanation(Answer, frozen=True, kw_only=True):
    """Why a run waits (``waiting``), and the last things that happened to it."""

    run: QueuedRunRecord
    waiting: Optional[Waiting] = None
    timeline: list[TimelineEntry] = msgspec.field(default_factory=list)


class SlotPage(Answer, frozen=True, kw_only=True):
    """All slots."""

    slots: list[ListedSlotRecord]


class NodePage(Answer, frozen=True, kw_only=True):
    """All nodes that are known or still have attempts."""

    nodes: list[NodeRecord]


class MomentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the log: its sequence, when it was stored, and the state hash of what was true from then on."""

    seq: int
    time: Time
    state_hash: str
    v: int = 1


class _Wrong(msgspec.Struct, frozen=True):
    message: str
    path: Optional[str] = None


class _Error(_Wrong, frozen=True):
    code: str = ErrorCode.INVALID
    errors: list[_Wrong] = msgspec.field(default_factory=list)
    more: int = 0
    progress: Optional[FoldProgress] = None


class _MaybeError(msgspec.Struct, frozen=True):
    error: Optional[_Error] = None


_RUN = msgspec.json.Decoder(QueuedRunRecord)
_MAYBE_ERROR = msgspec.json.Decoder(_MaybeError)


def decode_run(body: bytes) -> QueuedRunRecord:
    """A run's record as the bucket bears it. Raises msgspec.MsgspecError."""
    return _RUN.decode(body)


def error_in(body: bytes) -> TrainshedError | None:
    """The error that an answer tells, if it is one."""
    try:
        error = _MAYBE_ERROR.decode(body).error
    except msgspec.MsgspecError:
        return None
    if error is None:
        return None
    try:
        code = ErrorCode(error.code)
    except ValueError:  # a newer release's
        code = ErrorCode.INVALID
    errors = [WrongField(one.path, one.message) for one in error.errors]
    return TrainshedError(code, error.message, error.path, errors, error.more, progress=error.progress)
