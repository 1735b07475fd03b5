"""What a worker may ask of the stack that runs it: it submits runs, and sees those and itself. Pure.

Owns which calls these are, and the label by which a run knows who submitted it; knows no socket and no NATS.
"""

from __future__ import annotations

import msgspec

from trainshed_client.errors import ErrorCode, TrainshedError

LABEL = "parent"
"""The label of what a worker submitted: the id of the worker's run."""

CALLS = ("run.submit", "run.submit_batch", "run.check", "run.cancel", "run.get", "run.list", "node.list")
"""`submit` looks at the nodes, too: whether there are GPUs to ask for, and whether a missing program is missed."""


def with_parent(config: object, parent: str | None) -> object:
    """The config as the worker of run ``parent`` submits it. Raises INVALID where its label names another run."""
    if parent is None or not isinstance(config, dict):
        return config
    labels = config.get("labels")
    if labels is not None and not isinstance(labels, dict):
        return config  # refused as any such config is
    labels = labels or {}
    if labels.get(LABEL, parent) != parent:
        raise TrainshedError(
            ErrorCode.INVALID,
            f"is set by the node, to the run that submits ({parent}); leave it out",
            f"labels.{LABEL}",
        )
    return {**config, "labels": {**labels, LABEL: parent}}


class SeenBy(msgspec.Struct, frozen=True):
    """Of a run's record, what says whose workers see it: its own, and that of the run that submitted it."""

    run_id: str
    labels: dict[str, str] = {}

    def __contains__(self, run_id: str) -> bool:
        return run_id in (self.run_id, self.labels.get(LABEL))


class _Labelled(msgspec.Struct, frozen=True):
    labels: dict[str, str] = {}


_SEEN_BY = msgspec.json.Decoder(SeenBy)


def seen_by(record: bytes) -> SeenBy:
    """The runs whose workers see the run of this record. Raises msgspec.MsgspecError where it is none."""
    return _SEEN_BY.decode(record)


def seen_by_config(run_id: str, config: bytes) -> SeenBy:
    """The same of a run by its config as stored."""
    return SeenBy(run_id, msgspec.json.decode(config, type=_Labelled).labels)


def not_there(run_id: str, node: str) -> TrainshedError:
    """The error where a node asks for the worker of a run that it has no attempt of."""
    return TrainshedError(
        ErrorCode.DENIED,
        f"{node} has no present attempt of run {run_id:.80}: a node asks for its own workers alone",
    )


def unseen(run_id: str, parent: str) -> TrainshedError:
    """The error where it does not."""
    return TrainshedError(
        ErrorCode.NOT_FOUND,
        f"run {parent} submitted no run {run_id:.80}; inside its worker there are no others. "
        "List them: trainshed ls --all",
    )
