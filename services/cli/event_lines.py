"""An event of the log as a line for people, and as the line of JSON that programs get.

Owns both spellings; reads no log and knows no option.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from services.cli.table import GAP, Screen, cut
from services.cli.text import clean, short, time_of_day

if TYPE_CHECKING:
    from events.codec import StoredEvent, Unreadable
    from events.types import Event
    from trainshed_client.direct_get import Message

SEQUENCE = "sequence"
STORED_TIME = "storedtime"
"""CloudEvents' names of extension attributes are small letters and digits."""
_SEQUENCE_DIGITS = 20
"""CloudEvents wants its `sequence` to sort as text, so it has leading zeros."""
_STYLES = {
    "completed": "green",
    "cancelled": "yellow",
    "dispatched": "cyan",
    "started": "cyan",
    "failed": "red",
    "timed_out": "red",
    "node_lost": "red",
    "node_removed": "red",
    "slot_unhealthy": "red",
    "log_accepted": "red",
}
_SEQ, _TIME, _TYPE, _ABOUT = 7, 19, 16, 12


def with_place(message: Message) -> bytes | None:
    """The stored event with the attributes ``sequence`` and ``storedtime``, last; None where it is no JSON object."""
    from events.times import rfc3339_exact

    try:
        event: dict[str, Any] = msgspec.json.decode(message.body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    for name in (SEQUENCE, STORED_TIME):  # a body of others may have them: the place is where it is stored
        event.pop(name, None)
    event[SEQUENCE] = f"{message.seq:0{_SEQUENCE_DIGITS}}"
    event[STORED_TIME] = rfc3339_exact(message.stored_ns)
    return msgspec.json.encode(event)


def heading(screen: Screen) -> str:
    """What stands above the lines."""
    names = ("SEQ".rjust(_SEQ), "STORED".ljust(_TIME), "EVENT".ljust(_TYPE), "ABOUT")
    return screen.styled(GAP.join(names), "bold")


def line(message: Message, screen: Screen) -> str:
    """One event: its sequence, when it was stored in the caller's zone, its type, its run or node, and what it says."""
    from events.codec import StoredEvent, decode
    from events.times import rfc3339

    found = decode(message.subject, message.body, message.seq, message.stored_ns)
    if isinstance(found, StoredEvent):
        type_, about = found.subject.type, found.subject.id
        about = short(about) if found.subject.scope == "run" else about
    else:
        type_, about = "unreadable", "-"
    begin = GAP.join(
        (str(message.seq).rjust(_SEQ), time_of_day(rfc3339(message.stored_ns)), type_.ljust(_TYPE))
    )
    rest = f"{GAP}{clean(about).ljust(_ABOUT)}{GAP}{clean(text_of(found))}".rstrip()
    room = None if screen.width is None else max(0, screen.width - len(begin))
    return screen.styled(begin, _STYLES.get(type_)) + (rest if room is None else cut(rest, room))


def text_of(found: StoredEvent | Unreadable) -> str:
    """What an event says, in words."""
    from events.codec import Unreadable
    from projections.read_model.timeline import of_event_alone
    from trainshed_client.rendering import timeline

    if isinstance(found, Unreadable):
        return f"in quarantine: {found.reason}"
    try:
        data = of_event_alone(found.event)
    except msgspec.MsgspecError:
        return "in quarantine: its config cannot be read"
    return _text_of_node(found.event) if data is None else timeline.text(found.subject.type, data)


def _text_of_node(event: Event) -> str:
    from events import types
    from trainshed_client.rendering.durations import in_a_sentence

    match event:
        case types.NodeJoined(host=host, gpus=gpus, cpus=cpus):
            return f"joined from {host}: {_some(len(gpus), 'slot')}, {_some(cpus, 'core')}"
        case types.NodeLeft(reason=reason):
            return f"left{_because(reason)}"
        case types.NodeDrained(requested_by=by, reason=reason):
            return f"drained by {by}{_because(reason)}"
        case types.NodeResumed(requested_by=by, reason=reason):
            return f"resumed by {by}{_because(reason)}"
        case types.NodeRemoved(requested_by=by, reason=reason):
            return f"removed by {by}{_because(reason)}"
        case types.NodeLost(silent_s=silent_s):
            return f"lost: silent for {in_a_sentence(silent_s)}"
        case types.SlotUnhealthy(index=index, reason=reason):
            return f"slot {index} cannot be used{_because(reason)}"
        case types.SlotHealthy(index=index):
            return f"slot {index} can be used again"
        case types.LogAccepted(accepted_by=by, reason=reason):
            return f"accepted as it is by {by}{_because(reason)}"
        case types.Elected(name=name, scheduler=scheduler):
            return f"{name} decides, with scheduler {scheduler.name} {scheduler.version}"
        case _:
            return ""


def _some(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""
