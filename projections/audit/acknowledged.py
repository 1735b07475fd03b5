"""Is each submission that was acknowledged in the log (I6)? A file of the API's answers, checked while replaying.

Owns that file's form and the check; reads no log itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from events.codec import StoredEvent
from events.types import Submitted
from trainshed_client.errors import ErrorCode, TrainshedError


class SubmitAnswer(msgspec.Struct, frozen=True):
    """What counts of an answer to a submission: the run, and the sequence of its Submitted."""

    run_id: str
    digest: str
    seq: int


def read_acks(lines: Iterable[bytes], file: str = "acks") -> list[SubmitAnswer]:
    """The answers, one JSON object a line; empty lines are passed over. Raises TrainshedError (invalid) naming the line."""
    answers: list[SubmitAnswer] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                answers.append(msgspec.json.decode(line, type=SubmitAnswer))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                expected = "each line is an answer as `trainshed submit --json` prints it"
                raise TrainshedError(
                    ErrorCode.INVALID, f"{file}, line {number}: {error}; {expected}", "--acks"
                ) from None
    return answers


class UnmetAnswers:
    """What was acknowledged and has not been met yet. Feed it every event, then ask for what is ``missing``."""

    def __init__(self, answers: Iterable[SubmitAnswer]) -> None:
        self._expected = {(one.seq, one.run_id) for one in answers}

    def observe(self, stored: StoredEvent) -> None:
        """Cross off the answer that this event is."""
        if self._expected and isinstance(stored.event, Submitted):
            self._expected.discard((stored.seq, stored.event.run_id))

    def missing(self) -> list[tuple[int, str]]:
        """Sequence and run of each answer that no event was."""
        return sorted(self._expected)
