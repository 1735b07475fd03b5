"""Whether somebody sends `run` input: its worker gets none, which is better heard than found out.

Owns that look, which reads nothing; knows no run.
"""

from __future__ import annotations

import os
import select


def data_waits(fd: int = 0) -> bool:
    """Whether there is data to read on this command's standard input; a terminal and /dev/null have none."""
    import fcntl
    import termios

    try:
        if os.isatty(fd):
            return False
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if not poller.poll(0):
            return False
        # At the end of a file, too, there is something to read: nothing. Only how much is there tells the two apart.
        return any(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    except OSError:
        return False  # closed, or a device that cannot say
