"""What each role may do, as docs/permissions.md has it. `python -m services.access.table` prints that page.

Owns its rows and their order; each mark is asked of `permissions_of`.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.access.accounts import covers
from services.access.identities import Control, ControlRole, Known, NodeIdentity, PageUser, Person, PersonRole
from services.access.permissions import (
    ADMIN_CALLS,
    ENROL_CALLS,
    NODE_CALLS,
    READ_CALLS,
    SUBMIT_CALLS,
    Way,
    permissions_of,
)
from services.parent import CALLS as WORKERS_CALLS
from trainshed_client import subjects

NODE = "gpu01"
COLUMNS: dict[str, Known] = {
    "viewer": Person("vic", PersonRole.VIEWER),
    "submitter": Person("sam", PersonRole.SUBMITTER),
    "admin": Person("ada", PersonRole.ADMIN),
    "node": NodeIdentity(NODE),
    "page": PageUser(),
    **{role.value: Control(role) for role in ControlRole},
}
CALLS = (
    *READ_CALLS,
    *SUBMIT_CALLS,
    *ADMIN_CALLS,
    *ENROL_CALLS,
    *(f"node.{NODE}.{call}" for call in NODE_CALLS),
    *(f"w.RUN.{call}" for call in WORKERS_CALLS),
)
"""Every call; ``w.RUN.`` before those that an agent asks for a worker."""
PUBLISHED = (
    f"{subjects.EVENTS}.run.RUN.gateway.submitted._",
    f"{subjects.EVENTS}.control.log.gateway.log_accepted._",
    f"{subjects.EVENTS}.run.RUN.dispatcher.dispatched.{NODE}",
    subjects.ELECTED,
    f"{subjects.EVENTS}.run.RUN.agent.completed.{NODE}",
    f"{subjects.EVENTS}.run.RUN.agent.completed.gpu02",
    f"{subjects.EVENTS}.node.{NODE}.agent.node_joined.{NODE}",
    subjects.node_heartbeat(NODE),
    subjects.node_heartbeat("gpu02"),
    f"$KV.{subjects.RUNS_BUCKET}.RUN",
    f"{subjects.WATCH}.output.RUN.1.{NODE}.stdout",
    subjects.WATCH_CHECKPOINT,
    f"$JS.API.DIRECT.GET.{subjects.EVENTS_STREAM}",
    f"$JS.API.STREAM.INFO.{subjects.EVENTS_STREAM}",
    f"$JS.API.STREAM.UPDATE.{subjects.EVENTS_STREAM}",
    f"$JS.API.STREAM.DELETE.{subjects.EVENTS_STREAM}",
    f"$JS.API.STREAM.PURGE.{subjects.EVENTS_STREAM}",
    f"$JS.API.STREAM.MSG.DELETE.{subjects.EVENTS_STREAM}",
    f"$JS.API.CONSUMER.CREATE.{subjects.EVENTS_STREAM}.c",
    f"$JS.API.CONSUMER.DELETE.{subjects.EVENTS_STREAM}.{NODE}",
)
HEARD = (
    f"{subjects.LOG}.run.RUN.gateway.submitted._",
    subjects.watch_run("RUN"),
    f"{subjects.WATCH}.output.RUN.1.{NODE}.stdout",
    subjects.push_delivery(NODE),
    subjects.push_delivery("gpu02"),
    subjects.node_heartbeat(NODE),
)


def may_call(who: Known, call: str) -> bool:
    """Whether a call of the API reaches whoever answers it."""
    ways = (Way.CALL, Way.CALL_PEER)
    return any(way in ways and covers(of, call) for way, of in permissions_of(who))


def may_publish(who: Known, subject: str) -> bool:
    """Whether what is published there arrives."""
    ways = (Way.SEND, Way.READ, Way.SHOW)
    return any(way in ways and covers(of, subject) for way, of in permissions_of(who))


def may_hear(who: Known, subject: str) -> bool:
    """Whether what is published there is heard."""
    return any(way is Way.HEAR and covers(of, subject) for way, of in permissions_of(who))


_HEAD = f"""\
# Permissions

For who wants to know what exactly each identity may do at the stack's server; [security.md](security.md) says what that keeps from whom. Made by
`python -m services.access.table` from `services/access/permissions.py`, of which the server's accounts are made too; each cell is tried on a real
server.

`RUN` is any run, `{NODE}` the node of the column, `gpu02` another one. A call is published to `trainshed.api.CALL`, and reaches who answers it with the
caller's account in its subject, as the server puts it there; `w.RUN.` begins what an agent asks for the worker of a run. What is published elsewhere
than marked reaches nobody beyond the account of who publishes it.
"""


def page() -> str:
    """All of docs/permissions.md."""
    return _HEAD + "\n" + "\n".join(lines()) + "\n"


def lines() -> Iterator[str]:
    """The table in Markdown."""
    yield f"| | {' | '.join(COLUMNS)} |"
    yield f"| --- |{' --- |' * len(COLUMNS)}"
    for rows, title, may in (
        (CALLS, "calls", may_call),
        (PUBLISHED, "publishes to", may_publish),
        (HEARD, "hears", may_hear),
    ):
        for row in rows:
            marks = ("x" if may(who, row) else "" for who in COLUMNS.values())
            yield f"| {title} `{row}` | {' | '.join(marks)} |"


if __name__ == "__main__":
    print(page(), end="")
