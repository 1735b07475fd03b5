"""How a worker's messages reach whoever listens at NOTIFY_SOCKET: never by waiting, never by raising.

Owns what is kept where the socket is full or away, and when it is tried again; knows no key. Standard library only.
"""

from __future__ import annotations

import atexit
import errno
import os
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

MOST_KEPT = 256
"""Messages that are kept; of more the oldest two are joined, so that the newest stay whole and no last value is lost."""
RETRY_EVERY_S = 0.01
"""A full socket cannot be waited for: poll() does not know of the other end's queue."""
RETRY_FOR_S = 10.0
"""Seconds for which a thread of its own tries again; after them the next message does."""
AT_EXIT_S = 0.5
"""Seconds that the end of a process waits for room."""


class DatagramSender:
    """Sends messages in their order, a datagram each. Safe to use from threads, signal handlers and after a fork."""

    def __init__(self) -> None:
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Nothing is kept and nobody is at it: so a process begins, also one that was forked in the middle of a message."""
        from threading import Lock

        self._address = ""
        self._kept: deque[Mapping[str, str]] = deque()
        self._turn = Lock()
        self._trying_again = False

    def send(self, address: str, message: Mapping[str, str]) -> None:
        """Send it to that NOTIFY_SOCKET now, or keep it for later."""
        self._address = address
        self._kept.append(message)
        if not self._flush():
            self._try_again()

    def _flush(self) -> bool:
        """False where some are kept that cannot be sent now. Who has no turn leaves it to who has."""
        while self._kept and self._turn.acquire(blocking=False):
            try:
                if not self._send_kept():
                    return False
            finally:
                self._turn.release()
        return True

    def _send_kept(self) -> bool:
        import socket

        # A socket of its own for these: a program may close descriptors that it does not know, or use their numbers.
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                while self._kept:
                    self._send_oldest(sock)
        except (OSError, AttributeError):  # AttributeError: a system without such sockets
            while len(self._kept) > MOST_KEPT:
                oldest, next_one = self._kept.popleft(), self._kept.popleft()
                self._kept.appendleft({**oldest, **next_one})
            return False
        return True

    def _send_oldest(self, sock: socket.socket) -> None:
        message = self._kept.popleft()
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            sock.sendto(_encoded(message), address)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:  # what is too long is no shorter later
                self._kept.appendleft(message)
                raise

    def _try_again(self) -> None:
        if self._trying_again:
            return
        self._trying_again = True
        import threading

        atexit.unregister(self._at_exit)
        atexit.register(self._at_exit)
        try:
            threading.Thread(target=self._until_sent, name="trainshed-notify", daemon=True).start()
        except RuntimeError:  # no thread can be had: the next message tries again
            self._trying_again = False

    def _until_sent(self) -> None:
        sent = self._flush_within(RETRY_FOR_S)
        self._trying_again = False
        if sent and self._kept:  # kept between the last look and now
            self._try_again()

    def _at_exit(self) -> None:
        self._flush_within(AT_EXIT_S)

    def _flush_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self._kept and time.monotonic() < end:
            if not self._flush():
                time.sleep(RETRY_EVERY_S)
        return not self._kept


def _encoded(message: Mapping[str, str]) -> bytes:
    return "\n".join([f"{key}={value}" for key, value in message.items()]).encode("utf-8", "replace")
