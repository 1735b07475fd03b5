"""How many files a process may have open: services take all that they may, and what they start for users has the caller's.

Owns that limit; knows no service.
"""

from __future__ import annotations

import contextlib
import functools
import resource


@functools.cache
def own_limit() -> int:
    """The limit that this process was started with (the soft RLIMIT_NOFILE); first asked before it is raised."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit() -> None:
    """Raise the limit as far as it may be. A node has several descriptors for each run, and shells give 1,024."""
    own_limit()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it; what there is does then
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
