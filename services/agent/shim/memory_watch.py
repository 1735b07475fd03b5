"""Whether the kernel ended processes of an attempt for want of memory, and in whose name.

Owns the looks at a worker's cgroup of memory, and what a person reads of it; decides nothing and ends nothing.

With cgroup v2 the kernel ends the whole tree at once, so a look at the worker's end is enough. v1 ends one process, which
need not be the worker: there a watch says that it happened.
"""

from __future__ import annotations

import math
import os

from services.agent.shim import cgroup

LOOK_AGAIN_S = 0.05
"""v1 says that memory is short before it has chosen what to end: the looks after that are this far apart."""
LOOK_FOR_S = 10.0
"""For so long: a cgroup above may have been meant, of which another process was ended."""


class MemoryWatch:
    """Watches the cgroup at ``path`` (empty: nothing) of an attempt that may have ``limit_mb`` (0: no limit of its own)."""

    def __init__(self, path: str, limit_mb: int) -> None:
        self._path = path
        self._limit_mb = limit_mb
        self._look_until = 0.0
        self.due = math.inf
        """When to look, on the clock of `woken`."""
        self.fd = -1
        """Readable when it is time for `woken`; -1 where nothing of the kind is to be heard."""
        if path and limit_mb > 0:
            self._listen()

    def _listen(self) -> None:
        try:
            control = os.open(f"{self._path}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # v2
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            with open(f"{self._path}/cgroup.event_control", "w") as file:
                file.write(f"{fd} {control}")
        except OSError:
            os.close(fd)
        else:
            self.fd = fd
        finally:
            os.close(control)

    def woken(self, now: float) -> None:
        """The kernel is short of memory for this cgroup, or one above it."""
        os.eventfd_read(self.fd)
        self.due, self._look_until = now, now + LOOK_FOR_S

    def look(self, now: float) -> str | None:
        """What the kernel ended and why, for a person; None: nothing (so far: `due` is set again)."""
        why = self.why_ended()
        self.due = now + LOOK_AGAIN_S if why is None and now < self._look_until else math.inf
        return why

    def why_ended(self) -> str | None:
        """Why the kernel ended a process of the tree, for a person; None: it did not."""
        if not self._path or not cgroup.oom_kills(self._path):
            return None
        if self._limit_mb > 0 and cgroup.limit_reached(self._path):
            return f"it needed more memory than its resources.memory_mb, {self._limit_mb}"
        return "its machine, or the share of it that the node has, had no memory left"
