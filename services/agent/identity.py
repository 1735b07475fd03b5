"""Who this agent is: its node's name, its incarnation and the log that it belongs to, kept in the state folder.

Owns node.json and agent.lock (one agent a state folder); knows neither NATS nor runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from services.plain_trouble import may_pass, refusal
from services.settings import check_node_name, default_node_name
from trainshed_client.endpoint import write_private
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

IDENTITY_FILE = "node.json"
LOCK_FILE = "agent.lock"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What the state folder keeps for good. The incarnation is the id of this folder (docs/protocol.md rule 11)."""

    v: int = 1
    node: str
    incarnation: str
    log_id: str


def kept_name(state_dir: Path) -> str | None:
    """The name of the node that this folder is; None where it is none yet, or its file cannot be read."""
    kept = _kept(state_dir)
    return None if kept is None else kept.node


def kept_log(state_dir: Path) -> str | None:
    """The log that this folder belongs to; None where it belongs to none yet, or its file cannot be read."""
    kept = _kept(state_dir)
    return None if kept is None else kept.log_id


def _kept(state_dir: Path) -> Identity | None:
    try:
        return msgspec.json.decode((state_dir / IDENTITY_FILE).read_bytes(), type=Identity)
    except (OSError, msgspec.MsgspecError):
        return None


def node_name(state_dir: Path, asked: str | None) -> str:
    """The name that the folder's node has, or would have. Raises TrainshedError (INVALID) for a name that can be none."""
    kept = kept_name(state_dir)  # where that cannot be read, `identify` says what is wrong with it
    if kept is not None:
        return kept
    return default_node_name() if asked is None else check_node_name(asked)


def identify(state_dir: Path, *, log_id: str, node: str | None, ids: Callable[[], str]) -> Identity:
    """The folder's identity, made at the first start; ``node`` is the name that was asked for, if any was.

    Raises TrainshedError: CONFLICT where the folder belongs to another log or to a node of another name, INVALID for
    a name that can be none, and where node.json cannot be read.
    """
    path = state_dir / IDENTITY_FILE
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Identity)
    except FileNotFoundError:
        name = default_node_name() if node is None else check_node_name(node)
        identity = Identity(node=name, incarnation=ids(), log_id=log_id)
        write_private(path, msgspec.json.encode(identity) + b"\n")
        return identity
    except (OSError, msgspec.MsgspecError) as error:
        if isinstance(error, OSError) and may_pass(error):
            raise refusal(error) from None
        raise TrainshedError(
            ErrorCode.INVALID,
            f"{path} cannot be read ({why(error)}). It says which node this folder is: bring it back from a backup, or start "
            "on another state folder and remove the old node (trainshed node remove NODE)",
        ) from None
    if kept.log_id != log_id:
        raise TrainshedError(
            ErrorCode.CONFLICT,
            f"{state_dir} belongs to the event log {kept.log_id}, and the server's log is {log_id}. Connect to the log "
            "that it belongs to, or give this node a state folder of its own (TRAINSHED_STATE_DIR)",
        )
    if node is not None and node != kept.node:
        raise TrainshedError(
            ErrorCode.CONFLICT,
            f"{state_dir} is the state folder of node {kept.node}, not of {node}. Start it as {kept.node}, or give "
            f"{node} a state folder of its own (TRAINSHED_STATE_DIR)",
            "--node",
        )
    return kept


@contextlib.contextmanager
def only_agent(state_dir: Path) -> Iterator[None]:
    """Hold the folder's agent lock. Raises TrainshedError (CONFLICT) while another agent's process lives on it.

    The kernel drops the lock with the process that held it, so a dead agent's blocks nobody.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainshedError(
                ErrorCode.CONFLICT,
                f"another agent already runs on {state_dir}. Stop it first, or start this one on a state folder of its "
                "own (TRAINSHED_STATE_DIR)",
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)  # for `trainshed down`
        yield
    finally:
        os.close(fd)
