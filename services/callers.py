"""Who asks, as the server vouches for it: read from the subject that a request arrived at, and from nothing else.

Owns the kinds of callers and how each is called in an event; knows no call, and not what anybody may do.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

import msgspec

from services.access.identities import LOCAL, node_of, person_of
from trainshed_client.errors import ErrorCode, TrainshedError

_WORKER_OF = "run/"


class Insider(msgspec.Struct, frozen=True):
    """Whoever connects within the control account, where the server vouches for nobody."""


class PersonCaller(msgspec.Struct, frozen=True):
    """A person, by an account of his own."""

    name: str


class NodeCaller(msgspec.Struct, frozen=True):
    """A node, by an account of its own."""

    node: str


class WorkerCaller(msgspec.Struct, frozen=True):
    """The worker of a run, by its agent. ``node``: the one whose account it came from; None: within the control account."""

    run_id: str
    node: str | None = None


class AccountCaller(msgspec.Struct, frozen=True):
    """An account that is neither a person's nor a node's, as that of pages."""

    account: str


Caller: TypeAlias = Insider | PersonCaller | NodeCaller | WorkerCaller | AccountCaller


def asking(subject: str) -> Caller:
    """Who asks at this subject. Raises DENIED where an account asks for a worker and is no node's."""
    match subject.split("."):
        case [_, _, "u", account, "w", run_id, *_]:
            node = node_of(account)
            if node is None:
                raise TrainshedError(
                    ErrorCode.DENIED, f"{account} is no node: it asks for no worker of a run"
                )
            return WorkerCaller(run_id, node)
        case [_, _, "u", account, *_]:
            return _of_account(account)
        case [_, _, "w", run_id, *_]:
            return WorkerCaller(run_id)
        case _:
            return Insider()


def _of_account(account: str) -> Caller:
    if (name := person_of(account)) is not None:
        return PersonCaller(name)
    if (node := node_of(account)) is not None:
        return NodeCaller(node)
    return AccountCaller(account)


def stored_as(caller: Caller) -> str:
    """What events bear as ``submitted_by`` and ``requested_by``."""
    match caller:
        case Insider():
            return LOCAL
        case PersonCaller(name):
            return name
        case NodeCaller(node):
            return f"node/{node}"
        case WorkerCaller(run_id):
            return f"{_WORKER_OF}{run_id}"
        case AccountCaller(account):
            return account
        case _ as never:
            assert_never(never)


def submitting_run(by: str) -> str | None:
    """The run whose worker that is, by what an event bears; None where it is no worker."""
    return by.removeprefix(_WORKER_OF) if by.startswith(_WORKER_OF) else None
