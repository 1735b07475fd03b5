"""The subjects that the stack sends on, for the schema: their addresses with parameters, and which messages come there.

Owns this table; the spelling of subjects is trainshed_client's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from events.types import EVENT_KINDS, NodeHeartbeat, RunHeartbeat
from services.schema.bundle import envelope_name
from trainshed_client import subjects
from trainshed_client.statuses import RunStatus
from trainshed_client.subjects import Role, Scope

GONE = "Gone"
BYTES = "OutputBytesMessage"
STREAMS = ("stdout", "stderr", "metrics")

PARAMETERS: dict[str, tuple[str, list[str]]] = {
    "run_id": ("A run's id: 26 of the characters a-z and 2-7.", []),
    "node": ("A node's name, or `_` where it is of none.", []),
    "index": ("Of the slot among the node's, from 0 on.", []),
    "attempt": ("Number of the attempt, from 1 on.", []),
    "stream": ("Which of the attempt's streams.", list(STREAMS)),
    "role": ("Who wrote it.", [str(role) for role in Role]),
    "event": ("The event's name.", list(EVENT_KINDS)),
    "about": ("What a control event is about.", ["dispatch", "log"]),
    "store": (
        "Which stream is read.",
        [
            subjects.EVENTS_STREAM,
            subjects.HEARTBEATS_STREAM,
            *(
                f"KV_{bucket}"
                for bucket in (
                    subjects.RUNS_BUCKET,
                    subjects.SLOTS_BUCKET,
                    subjects.NODES_BUCKET,
                    subjects.QUEUE_BUCKET,
                )
            ),
        ],
    ),
}
"""Each parameter of an address: what it is, and its values where these are few."""


class Channel(NamedTuple):
    """A channel that the stack sends on. ``stored``: it is there to be read by direct get, and is not to be subscribed to."""

    name: str
    address: str
    messages: tuple[str, ...]
    text: str
    stored: bool = False


def published() -> Iterator[Channel]:
    """Every such channel."""
    yield from _WATCHED
    yield from _LOGGED
    yield Channel(
        "heartbeats.run",
        subjects.run_heartbeat("{run_id}", "{node}"),
        (envelope_name(RunHeartbeat),),
        "What a live attempt's worker reported, by its node.",
    )
    yield Channel(
        "heartbeats.node",
        f"{subjects.HEARTBEATS}.node.{{node}}.{{same_node}}",
        (envelope_name(NodeHeartbeat),),
        "That a node is alive, and how its devices are.",
    )
    for channel in _WATCHED[:4]:
        bucket, key = _BUCKETS[channel.name]
        yield Channel(
            channel.name.replace("watch", "record"),
            f"$KV.{bucket}.{key}",
            channel.messages,
            f"The stored records of `{channel.address}`: the newest of each key.",
            stored=True,
        )


PARAMETERS["same_node"] = PARAMETERS["node"]

_BUCKETS = {
    "watch.runs": (subjects.RUNS_BUCKET, "{run_id}"),
    "watch.slots": (subjects.SLOTS_BUCKET, "{node}.{index}"),
    "watch.nodes": (subjects.NODES_BUCKET, "{node}"),
    "watch.queue": (subjects.QUEUE_BUCKET, subjects.QUEUE_KEY),
}
_WATCHED = (
    Channel(
        "watch.runs",
        subjects.watch_run("{run_id}"),
        ("RunRecord", GONE),
        f"A run's record whenever it changes: {', '.join(RunStatus)}. Keep the newest by (`seq`, `updated_at`).",
    ),
    Channel(
        "watch.slots",
        f"{subjects.WATCH_SLOTS}.{{node}}.{{index}}",
        ("SlotRecord", GONE),
        "A slot's record whenever it changes.",
    ),
    Channel(
        "watch.nodes",
        subjects.watch_node("{node}"),
        ("NodeRecord", GONE),
        "A node's record whenever it changes.",
    ),
    Channel(
        "watch.queue",
        f"{subjects.WATCH_QUEUE}",
        ("QueueRecord", GONE),
        "The queue as a whole whenever it changes, four times a second at most.",
    ),
    Channel(
        "watch.checkpoint",
        subjects.WATCH_CHECKPOINT,
        ("CheckpointMessage",),
        "The log's tree, signed: a while after the log has grown.",
    ),
    Channel(
        "watch.output",
        f"{subjects.WATCH}.output.{{run_id}}.{{attempt}}.{{node}}.{{stream}}",
        (BYTES,),
        "New output of an attempt as it is written: raw bytes, with their offset in the file.",
    ),
    Channel(
        "watch.telemetry",
        f"{subjects.WATCH}.telemetry.{{run_id}}.{{attempt}}.{{node}}",
        ("TelemetryLine",),
        "The lines of an attempt's stdout that are JSON objects with a `type` or an `event`.",
    ),
)


def _of_scope(root: str, scope: Scope) -> tuple[str, tuple[str, ...]]:
    """The address of a scope's events below ``root``, and their messages."""
    kinds = [kind for kind in EVENT_KINDS.values() if kind.scope is scope]
    about = {Scope.RUN: "{run_id}", Scope.NODE: "{same_node}", Scope.CONTROL: "{about}"}[scope]
    return f"{root}.{scope}.{about}.{{role}}.{{event}}.{{node}}", tuple(
        envelope_name(kind.type) for kind in kinds
    )


_LOGGED = (
    *(
        Channel(
            f"log.{scope}", *_of_scope(subjects.LOG, scope), f"Events about a {scope}, once they are stored."
        )
        for scope in Scope
    ),
    *(
        Channel(
            f"events.{scope}",
            *_of_scope(subjects.EVENTS, scope),
            "The same as they are stored. Who subscribes here also hears what is then refused: subscribe to the log.",
            stored=True,
        )
        for scope in Scope
    ),
)
