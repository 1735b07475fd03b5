"""The gateway's decisions: what a command makes of a state, as events to append or a refusal for people.

Owns the rules of cancel, retry, drain, resume and remove, and what no node could ever hold; appends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from events.config import RunConfig
from events.resources import could_hold, least_of, whole_of
from events.state import Ended, Node, Run, State
from events.types import (
    CancelRequested,
    Event,
    NodeDrained,
    NodeRemoved,
    NodeResumed,
    RetryRequested,
)
from trainshed_client.errors import ErrorCode, Refusals, TrainshedError
from trainshed_client.json_limits import invalid
from trainshed_client.statuses import NodeStatus, RunStatus


class Cancel(msgspec.Struct, frozen=True, kw_only=True):
    """End this run, whatever it is doing."""

    run_id: str
    reason: str | None = None
    by: str = "local"


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Run this ended run again, as a new attempt. ``after``: how each run of its ``after`` stands now."""

    run_id: str
    after: Mapping[str, RunStatus] = {}
    reason: str | None = None
    by: str = "local"


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """Grant this node nothing more; what runs there goes on."""

    node: str
    reason: str | None = None
    by: str = "local"


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """Grant this node runs again."""

    node: str
    reason: str | None = None
    by: str = "local"


class Remove(msgspec.Struct, frozen=True, kw_only=True):
    """This machine is off and will not come back as it was."""

    node: str
    reason: str | None = None
    by: str = "local"


Command = Cancel | Retry | Drain | Resume | Remove


def decide(state: State, command: Command, run: Run | None = None) -> list[Event]:
    """The events that ``command`` asks for; none where what it wants is so already.

    ``run`` is the last value of the run that the command names, live or ended (None: there is no such run).
    Raises TrainshedError where the command cannot be followed: nothing is to be appended then.
    """
    match command:
        case Cancel():
            return _cancel(_known(run, command.run_id), command)
        case Retry():
            return _retry(_known(run, command.run_id), command)
        case Drain(node=name, reason=reason, by=by):
            node = _node(state, name)
            if node.drained:
                return []
            return [NodeDrained(node=name, incarnation=node.incarnation, reason=reason, requested_by=by)]
        case Resume(node=name, reason=reason, by=by):
            node = _node(state, name)
            if not node.drained and not node.suspect:
                return []
            return [NodeResumed(node=name, incarnation=node.incarnation, reason=reason, requested_by=by)]
        case Remove(node=name, reason=reason, by=by):
            node = _node(state, name)
            if node.status is NodeStatus.UP:
                raise TrainshedError(
                    ErrorCode.CONFLICT,
                    f"{name} is up: its agent was heard a moment ago. Stop the agent there first; one that is off "
                    "counts as lost once it was silent for TRAINSHED_NODE_LOST_S seconds (15)",
                    "node",
                )
            return [NodeRemoved(node=name, incarnation=node.incarnation, reason=reason, requested_by=by)]


def could_run_on(state: State, config: RunConfig) -> list[str]:
    """The nodes that take work now and could hold an attempt of this run when empty, by name."""
    return sorted(
        node.name
        for node in state.nodes.values()
        if node.takes_work and could_hold(node, config.needs, unhealthy_too=False)
    )


def refuse_impossible(state: State, config: RunConfig) -> None:
    """Refuse needs that no known node could hold when empty (GPUs that are not mandatory do not count).

    Lost and drained nodes are known, and unhealthy slots count: they may be healthy again. With no node known everything
    is accepted. Raises TrainshedError.
    """
    known = [n for n in state.nodes.values() if n.status in (NodeStatus.UP, NodeStatus.LOST)]
    if not known or any(could_hold(node, config.needs, unhealthy_too=True) for node in known):
        return
    needs, wholes = least_of(config.needs), [whole_of(node, unhealthy_too=True) for node in known]
    refused = Refusals()
    for path, wanted, most, unit in (
        ("resources.gpus.requested", needs.gpus, max(whole.gpus for whole in wholes), "GPUs"),
        ("resources.cpus", needs.cpus, max(whole.cpus for whole in wholes), "CPUs"),
        ("resources.memory_mb", needs.memory_mb, max(whole.memory_mb for whole in wholes), "MB of memory"),
    ):
        if wanted > most:
            refused.add(
                invalid(
                    path, f"{wanted} {unit} asked for, but no node has more than {most}; see: trainshed nodes"
                )
            )
    refused.raise_any()
    raise TrainshedError(
        ErrorCode.INVALID,
        f"no single node has {needs.gpus} GPUs, {needs.cpus} CPUs and {needs.memory_mb} MB of memory; see: trainshed nodes",
        "resources",
    )


def _cancel(run: Run, command: Cancel) -> list[Event]:
    if isinstance(run.phase, Ended) or run.cancel_requested:
        return []
    return [CancelRequested(run_id=run.run_id, reason=command.reason, requested_by=command.by)]


def _retry(run: Run, command: Retry) -> list[Event]:
    if not isinstance(run.phase, Ended):
        raise TrainshedError(
            ErrorCode.CONFLICT,
            f"run {run.run_id[:6]} is {run.status}: only an ended run can be retried",
            "run_id",
        )
    for run_id, status in command.after.items():
        if status.ended and status is not RunStatus.COMPLETED:
            raise TrainshedError(
                ErrorCode.CONFLICT,
                f"run {run.run_id[:6]} comes after run {run_id[:6]}, which is {status}: retry that one first, then this "
                f"one waits for it: trainshed retry {run_id[:6]}",
                "run_id",
            )
    return [
        RetryRequested(
            run_id=run.run_id, attempt=run.phase.attempt, reason=command.reason, requested_by=command.by
        )
    ]


def _known(run: Run | None, run_id: str) -> Run:
    if run is None:
        raise TrainshedError(ErrorCode.NOT_FOUND, f"no run {run_id!r:.60}; see: trainshed ls --all", "run_id")
    return run


def _node(state: State, name: str) -> Node:
    node = state.nodes.get(name)
    if node is None or node.status is NodeStatus.REMOVED:
        known = ", ".join(sorted(n.name for n in state.nodes.values() if n.status is not NodeStatus.REMOVED))
        raise TrainshedError(ErrorCode.NOT_FOUND, f"no node {name!r:.60}; known: {known or 'none'}", "node")
    return node
