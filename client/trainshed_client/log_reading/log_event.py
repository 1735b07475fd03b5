"""An event of the log as a client has it.

Owns its fields; knows no type of event.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Optional

import msgspec

from trainshed_client import subjects
from trainshed_client.direct_get import Message
from trainshed_client.times import moment


class LogEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event: its place in the log, when it was stored there (UTC), and its subject.

    ``type`` as in the subject (`started`); ``scope`` and ``about``: `run` and a run's id, `node` and its name, or `control`;
    ``role`` and ``node`` wrote it (``node`` of a dispatcher's: whom it is for; None: none). ``body``: what it bears, by its
    type (docs/contracts/events.md). Of what others stored there, and is no event, ``body`` is None, and what the subject
    does not have is ''. ``raw``: what is stored.
    """

    seq: int
    stored_at: datetime
    subject: str
    type: str
    scope: str
    about: str
    role: str
    node: Optional[str]
    body: Optional[dict[str, Any]]
    raw: bytes

    @property
    def run_id(self) -> Optional[str]:
        """The run that it is about, if it is about one."""
        return self.about if self.scope == subjects.Scope.RUN.value else None


class _Body(msgspec.Struct):
    data: dict[str, Any]


_BODY = msgspec.json.Decoder(_Body)
_NONE = subjects.EventSubject("", "", "", "", subjects.NO_NODE)


def event_of(message: Message) -> LogEvent:
    """The event that a stored message is."""
    try:
        body: Optional[dict[str, Any]] = _BODY.decode(message.body).data
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        body = None
    parts = subjects.parse_event_subject(message.subject) or _NONE
    return LogEvent(
        seq=message.seq,
        stored_at=moment(message.stored_ns),
        subject=message.subject,
        type=parts.type,
        scope=parts.scope,
        about=parts.id,
        role=parts.role,
        node=None if parts.node == subjects.NO_NODE else parts.node,
        body=body,
        raw=message.body,
    )
