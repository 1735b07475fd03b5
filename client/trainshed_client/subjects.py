"""Every subject, stream and bucket name that Trainshed uses on NATS.

Owns how they are spelled and read back; knows nothing of what is sent on them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from trainshed_client._compat import StrEnum

EVENTS_STREAM = "TRAINSHED_EVENTS"
HEARTBEATS_STREAM = "TRAINSHED_HEARTBEATS"
EVENTS = "trainshed.events"
HEARTBEATS = "trainshed.heartbeats"
LOG = "trainshed.log"
WATCH = "trainshed.watch"
WATCH_CHECKPOINT = f"{WATCH}.checkpoint"
API = "trainshed.api"
PEER = "trainshed.peer"
RUNS_BUCKET = "trainshed_runs"
SLOTS_BUCKET = "trainshed_slots"
NODES_BUCKET = "trainshed_nodes"
QUEUE_BUCKET = "trainshed_queue"
BUCKETS = (RUNS_BUCKET, SLOTS_BUCKET, NODES_BUCKET, QUEUE_BUCKET)
QUEUE_KEY = "queue"
"""Its one key: the queue as a whole."""
WATCH_RUNS = f"{WATCH}.runs"
WATCH_SLOTS = f"{WATCH}.slots"
WATCH_NODES = f"{WATCH}.nodes"
WATCH_QUEUE = f"{WATCH}.queue"

ALL_EVENTS = f"{EVENTS}.>"
ALL_HEARTBEATS = f"{HEARTBEATS}.>"
ALL_NODE_EVENTS = f"{EVENTS}.node.>"
ALL_CONTROL_EVENTS = f"{EVENTS}.control.>"
ALL_NODE_HEARTBEATS = f"{HEARTBEATS}.node.*.*"
ELECTED = f"{EVENTS}.control.dispatch.dispatcher.elected._"
LOG_ACCEPTED = f"{EVENTS}.control.log.gateway.log_accepted._"
ACKS = "$JS.ACK."
"""How the reply subject of what a JetStream consumer delivers begins."""
LOG_INFO = "trainshed.info.log"
"""Where a node, whose account has no JetStream of its own, asks which log it is."""
ALIVE_DISPATCHER = "trainshed.alive.dispatcher"
NO_NODE = "_"

OFFSET_HEADER = "Trainshed-Offset"
SIZE_HEADER = "Trainshed-Size"
FILE_HEADER = "Trainshed-File"

_BEGIN = f"{EVENTS}."
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
"""A longer one could make a subject for which the server hangs up (its ``max_control_line``)."""


class Scope(StrEnum):
    """What an event is about."""

    RUN = "run"
    NODE = "node"
    CONTROL = "control"


class Role(StrEnum):
    """Who wrote an event: one writer role for each subject."""

    GATEWAY = "gateway"
    DISPATCHER = "dispatcher"
    AGENT = "agent"


class EventSubject(NamedTuple):
    """The five tokens of ``trainshed.events.<scope>.<id>.<role>.<type>.<node>``."""

    scope: str
    id: str
    role: str
    type: str
    node: str

    def __str__(self) -> str:
        return f"{EVENTS}.{self.scope}.{self.id}.{self.role}.{self.type}.{self.node}"


def leader_elected(stream: str) -> str:
    """The server's word that another server of a cluster leads a stream, or the same one anew."""
    return f"$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.{stream}"


def parse_event_subject(subject: str) -> EventSubject | None:
    """The tokens of an event's subject; None where it is not of that form.

    A raw client can store a literal ``*`` or ``>`` as a token: those are no event subjects.
    """
    parts = subject.split(".", 7)
    if len(parts) != 7 or not subject.startswith(_BEGIN) or ".." in subject or not parts[6]:
        return None
    if "*" in subject or ">" in subject:
        return None
    return tuple.__new__(EventSubject, parts[2:])  # half of the time of EventSubject(*parts[2:])


def run_events(run_id: str) -> str:
    """Every event of one run (also the guard of its Submitted)."""
    return f"{EVENTS}.run.{run_id}.>"


def grants(run_id: str) -> str:
    """Every Dispatched of one run."""
    return f"{EVENTS}.run.{run_id}.dispatcher.dispatched.*"


def submitted(run_id: str) -> str:
    """The literal subject of a run's one Submitted."""
    return f"{EVENTS}.run.{run_id}.gateway.submitted.{NO_NODE}"


def agent_events(run_id: str, node: str) -> str:
    """An agent's own events on one run: the guard of what it appends (docs/protocol.md rule 13)."""
    return f"{EVENTS}.run.{run_id}.agent.*.{node}"


def agent_event(run_id: str, type_: str, node: str) -> str:
    """The literal subject of one kind of an agent's event on a run."""
    return f"{EVENTS}.run.{run_id}.agent.{type_}.{node}"


def node_events(node: str) -> str:
    """Everything that is stored of one node itself."""
    return f"{EVENTS}.node.{node}.>"


def node_event(node: str, role: Role, type_: str) -> str:
    """The literal subject of one kind of event about a node."""
    return f"{EVENTS}.node.{node}.{role}.{type_}.{node}"


def pushed_to(node: str) -> str:
    """What a node's durable push consumer filters: the dispatcher's decisions for it."""
    return f"{EVENTS}.*.*.dispatcher.*.{node}"


def push_delivery(node: str) -> str:
    """Where those are delivered; the agent subscribes to it spelled out."""
    return f"trainshed.push.{node}.events"


def run_heartbeat(run_id: str, node: str) -> str:
    """Where an agent puts what a run's worker reported."""
    return f"{HEARTBEATS}.run.{run_id}.{node}"


def node_heartbeat(node: str) -> str:
    """Where an agent puts its node's heartbeat."""
    return f"{HEARTBEATS}.node.{node}.{node}"


def parse_heartbeat_subject(subject: str) -> tuple[str, str, str] | None:
    """(scope, id, node) of a heartbeat's subject; None where it is not of that form."""
    parts = subject.split(".")
    if len(parts) != 5 or parts[0] != "trainshed" or parts[1] != "heartbeats":
        return None
    return parts[2], parts[3], parts[4]


def output(run_id: str, attempt: int, node: str, stream: str) -> str:
    """Where new output of an attempt is published as raw bytes."""
    return f"{WATCH}.output.{run_id}.{attempt}.{node}.{stream}"


def telemetry(run_id: str, attempt: int, node: str) -> str:
    """Where the JSON lines of an attempt's stdout are published."""
    return f"{WATCH}.telemetry.{run_id}.{attempt}.{node}"


def watch_run(run_id: str) -> str:
    """Where a run's record is republished when its bucket changes."""
    return f"{WATCH_RUNS}.{run_id}"


def watch_slot(node: str, index: int) -> str:
    """Where a slot's is."""
    return f"{WATCH_SLOTS}.{node}.{index}"


def watch_node(node: str) -> str:
    """Where a node's is."""
    return f"{WATCH_NODES}.{node}"


def api(call: str) -> str:
    """The subject of a command or query, as in ``trainshed.api.run.submit``."""
    return f"{API}.{call}"


def api_as(call: str) -> str:
    """The same for callers whose account the server vouches for; the account is token 4."""
    return f"{API}.u.*.{call}"


def peer_as(call: str) -> str:
    """The same for what a node asks of another: within its own account the call's name is that of its own."""
    return f"{PEER}.u.*.{call}"


def api_for(run_id: str, call: str) -> str:
    """The same for what the worker of a run asks, by its agent."""
    return f"{API}.w.{run_id}.{call}"


def api_as_for(call: str) -> str:
    """The same where the agent asks by an account of its node's own; token 4 is that account, token 6 the run."""
    return f"{API}.u.*.w.*.{call}"


def node_output(node: str) -> str:
    """The call that reads ranges of an attempt's output on its node."""
    return f"{API}.node.{node}.output"


def node_folder(node: str) -> str:
    """The call that says where an attempt's run has its folder on its node."""
    return f"{API}.node.{node}.folder"


def node_artifacts(node: str) -> str:
    """The call that lists what is in an attempt's artifacts/ on its node."""
    return f"{API}.node.{node}.artifacts"


def is_token(text: str) -> bool:
    """True where ``text`` can stand as one token of a subject."""
    return _TOKEN.match(text) is not None
