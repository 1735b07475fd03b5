"""What the connection class needs of a way to the stack: NATS, or inside a worker the socket that its agent keeps.

Owns that interface, and what it means that a command was not answered; knows neither of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from trainshed_client import subjects
from trainshed_client.errors import TrainshedError, Unanswered

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

    from trainshed_client.callbacks import Called

CALL_TIMEOUT_S = 10.0
LATE_S = 3.0
"""An answer that takes longer is one that somebody is told of."""
STARTING_RETRY_S = 0.5
"""A gateway that starts, and said how far it is, is asked again after this time."""
ABSENT_S = 1.0
"""A service that is starting again is waited for so long before "nobody answers" is believed."""
COMMANDS = (
    "run.submit",
    "run.submit_batch",
    "run.check",
    "run.cancel",
    "run.retry",
    "node.drain",
    "node.resume",
    "node.remove",
)


class Reply(NamedTuple):
    """What answers a request."""

    data: bytes
    headers: Mapping[str, str]


OnWaiting: TypeAlias = "Called[[str, str | None]]"
"""Hears that an answer is waited for: which service's, as in `the projector`, and why, as text; None: it has come."""


class Watching(Protocol):
    """What is heard until it is closed."""

    async def close(self) -> None:
        """Hear nothing more."""
        ...


ReceiveRun = Callable[[str, bytes], None]
"""Takes a run's id and its record as JSON; without a body the record has left the bucket, and the run is not gone."""

ReceiveOutput = Callable[[str, Mapping[str, str], bytes], None]
"""Takes new output of a stream: its name, the headers that say where it belongs, and the bytes."""


class Connection(Protocol):
    """A way to the stack. What it hears it hands on at once, while the connection is read: who takes it must not block.

    ``again`` is called wherever something may have been missed: what there is now must then be read once more.
    """

    @property
    def where(self) -> str:
        """What answers, for errors: an URL or a path, never with credentials."""
        ...

    async def request(
        self, subject: str, payload: bytes, *, timeout: float, tries: int = 1, absent_s: float = ABSENT_S
    ) -> Reply:
        """One request, answered by any message. Raises UNAVAILABLE where nobody answers, TOO_LARGE for too much.

        ``tries``: so often it is asked within ``timeout``: of several that answer, one may be killed at its work.
        ``absent_s``: so long a service that is not there is waited for, which may be starting again.
        """
        ...

    async def watch_runs(
        self, run_ids: frozenset[str] | None, receive: ReceiveRun, again: Callable[[], None]
    ) -> Watching:
        """Hear of every change of these runs' records, and perhaps of others (None: of all), from the return on."""
        ...

    async def watch_output(
        self, run_id: str, attempt: int, node: str, receive: ReceiveOutput, again: Callable[[], None]
    ) -> Watching:
        """Hear of an attempt's new output, from the return on."""
        ...

    async def close(self) -> None:
        """Close it in order."""
        ...

    async def abandon(self) -> None:
        """Close it at once: everything that was asked for has been answered, and the process ends."""
        ...


def is_command(subject: str) -> bool:
    """Whether what is asked there may change something."""
    return any(subject == subjects.api(call) for call in COMMANDS)


def answered_by(subject: str) -> str:
    """Which service answers what is asked there, in words."""
    if subject.startswith(f"{subjects.API}.node.") and subject.count(".") == 4:
        return f"the agent of {subject.split('.')[3]}"
    return "the gateway" if is_command(subject) else "the projector"


def no_answer(where: str, subject: str, within_s: float) -> TrainshedError:
    """The error where nothing was answered in time."""
    text = f"{answered_by(subject)} at {where} has not answered within {within_s:g} s"
    if is_command(subject):
        text += (
            ", so it is not known whether this was done. It is safe to ask again: "
            "the same config is the same run"
        )
    elif answered_by(subject) == "the projector":
        text += ": it hangs, or has too much to do. `trainshed up` replaces one that hangs; ask again soon"
    return Unanswered(text)
