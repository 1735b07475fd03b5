"""The kinds of faults, in the table's order, and how often each is taken.

Owns their names, which `--only` looks in; knows nothing of how they are done.
"""

from __future__ import annotations

import enum


class Kind(enum.StrEnum):
    """What can happen."""

    KILL_SERVER = "kill -9 nats-server"
    KILL_GATEWAY = "kill -9 gateway"
    KILL_ACTIVE = "kill -9 dispatcher (active)"
    KILL_STANDBY = "kill -9 dispatcher (standby)"
    KILL_PROJECTOR = "kill -9 projector"
    KILL_AGENT = "kill -9 agent"
    KILL_SHIM = "kill -9 shim"
    KILL_SPAWNER = "kill -9 spawner"
    KILL_WORKER = "kill -9 worker"
    FAILPOINT = "kill -9 at a failpoint"
    FAILPOINT_STOP = "SIGSTOP at a failpoint"
    KILL_AGENT_AND_SHIMS = "kill -9 agent and its shims"
    AWAY_AGENT = "agent away for 1 to 10 s"
    TERM = "SIGTERM to a service"
    STOP_SERVER = "SIGSTOP nats-server"
    STOP_ACTIVE = "SIGSTOP dispatcher (active)"
    STOP_SERVICE = "SIGSTOP another service"
    STOP_AGENT = "SIGSTOP agent until node lost"
    STOP_SHIM = "SIGSTOP shim"
    CUT = "partition: cut"
    HOLD_UP = "partition: one way, nothing from the agent"
    HOLD_DOWN = "partition: one way, nothing to the agent"
    SLOW = "partition: slow"
    DISK_AGENT = "disk full: agent"
    DISK_PROJECTOR = "disk full: projector"
    DISK_SERVER = "disk full: nats-server"
    CLOCK = "wall clock skewed"
    MACHINE = "machine gone, removed, a new one joins"


WEIGHTS = {kind: 2 for kind in Kind} | {
    Kind.FAILPOINT: 8,
    Kind.KILL_AGENT: 4,
    Kind.KILL_SHIM: 4,
    Kind.KILL_ACTIVE: 3,
    Kind.STOP_AGENT: 1,
    Kind.STOP_SHIM: 1,
    Kind.CLOCK: 1,
    Kind.AWAY_AGENT: 1,
    Kind.MACHINE: 1,
    Kind.DISK_SERVER: 1,
}
LANES = 3
DISK = (Kind.DISK_AGENT, Kind.DISK_PROJECTOR, Kind.DISK_SERVER)
