"""Where what is stored of the log and what is heard of it live are joined. Pure.

Owns that nothing is missed and nothing comes twice; knows no connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from trainshed_client.direct_get import Message


class LogJoin:
    """Messages in the log's order, from ``since_seq`` on: by pages at first and after each loss, else as they are heard.

    ``whole``: all of the log is read, so that each sequence must follow the one before. ``most``: so many live messages wait
    for a slow reader; beyond them the log is read again from where he is.
    """

    def __init__(self, since_seq: int, *, whole: bool, most: int) -> None:
        self.position = since_seq
        """Everything up to this sequence was taken, or waits to be."""
        self.reading = True
        """Whether pages are to be read from behind ``position`` on."""
        self._whole = whole
        self._most = most
        self._heard = since_seq
        self._waiting: deque[Message] = deque()

    def live(self, message: Message, before: int) -> None:
        """A message was heard, before which ``before`` was the last on its subject (0: none)."""
        self._heard = max(self._heard, message.seq)
        if self.reading or message.seq <= self.position:
            return
        if before > self.position or (self._whole and message.seq != self.position + 1):
            self.reading = True  # what lies between was not heard
        elif len(self._waiting) >= self._most:
            self.position = self._waiting[0].seq - 1
            self._waiting.clear()
            self.reading = True
        else:
            self._take(message)

    def page(self, messages: Sequence[Message]) -> None:
        """A page was read from behind ``position`` on."""
        for message in messages:
            if message.seq > self.position:
                self._take(message)

    def end_of_pages(self) -> bool:
        """All that is stored was read; whether live messages join on. Else there is more to be read."""
        self.reading = self._heard > self.position
        return not self.reading

    def lost(self) -> None:
        """Something may have been missed."""
        self.reading = True

    def forget_heard(self) -> None:
        """What was heard is nowhere in the log, so it was never stored there."""
        self._heard = self.position

    def taken(self) -> list[Message]:
        """What waits, in order."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def _take(self, message: Message) -> None:
        self.position = message.seq
        self._waiting.append(message)
