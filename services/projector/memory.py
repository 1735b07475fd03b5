"""Memory that a long backlog needed, given back: the process may now be idle for days.

Owns what can be asked of the C library for that.
"""

from __future__ import annotations

import ctypes
import gc


def give_back_memory() -> None:
    """Return free memory to the system, where the C library can (glibc keeps it otherwise)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
