"""A log in a file: what `trainshed events` prints, a CloudEvents object a line.

Owns how a line is made the message that it was; knows nothing of what events mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from events.codec import StoredEvent, Unreadable, decode
from events.times import nanoseconds_exact
from services.simulation.csv_table import invalid
from trainshed_client import subjects
from trainshed_client.subjects import EventSubject, Role, Scope


class _Data(msgspec.Struct):
    node: str | None = None


class _Line(msgspec.Struct):
    sequence: str
    type: str
    source: str
    subject: str
    time: str
    data: _Data
    storedtime: str | None = None


_LINE = msgspec.json.Decoder(_Line)


def messages_of(lines: Iterable[bytes], label: str) -> Iterator[StoredEvent | Unreadable]:
    """The messages of a file in the order of the log. Their times are those of storing, or of their writers where a line
    bears none (those of older releases), and never go back.

    Raises TrainshedError (invalid) where a line is none of `trainshed events`.
    """
    seq = stored_ns = 0
    for place, body in enumerate(lines, 1):
        where = f"{label}:{place}"
        if not body.strip():
            continue
        try:
            line = _LINE.decode(body)
            stored_ns = max(stored_ns, nanoseconds_exact(line.storedtime or line.time))
            number = int(line.sequence)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise invalid(
                where, f"no event ({error}); expected a line as `trainshed events` prints it"
            ) from None
        if number <= seq:
            raise invalid(
                f"{where}: sequence", f"{number} follows {seq}; expected events in the order of the log"
            )
        seq = number
        yield decode(_subject(line), body, seq, stored_ns)


def _subject(line: _Line) -> str:
    """Where it was stored. What cannot be one is found out by whoever decodes it."""
    scope, _, name = line.type.removeprefix("trainshed.").rpartition(".v")[0].partition(".")
    role, _, agent = line.source.partition("/")
    node: str | None = None
    if scope == Scope.NODE:
        node = line.subject
    elif scope == Scope.RUN:
        node = agent or (line.data.node if name in ("dispatched", "stopping") else None)
    try:
        return str(EventSubject(Scope(scope), line.subject, Role(role), name, node or subjects.NO_NODE))
    except ValueError:
        return f"{line.type} from {line.source}"
