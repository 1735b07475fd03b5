"""Starts one service of the fault suite: `trainshed WORDS`, but it dies with the suite, and may have a wrong clock or a bug.

Owns what is done to a process before the real command line runs in it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

CLOCK_OFFSET = "FAULTS_CLOCK_OFFSET_S"
SEEDED_BUG = "FAULTS_SEEDED_BUG"
ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """``launch.py PARENT WORD...``."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        return
    offset = float(os.environ.get(CLOCK_OFFSET, "0"))
    if offset:
        _skew(offset)
    bug = os.environ.get(SEEDED_BUG)
    if bug:
        sys.path.append(str(ROOT))
        from tests.faults.seeded import BUGS

        BUGS[bug].apply()
    sys.argv = ["trainshed", *sys.argv[2:]]
    from services.cli.main import main as trainshed

    sys.exit(trainshed())


def _skew(offset_s: float) -> None:
    """Before anything has taken hold of the clock: services are given it as a default of their constructors."""
    right_time, right_time_ns, offset_ns = time.time, time.time_ns, int(offset_s * 1e9)
    time.time = lambda: right_time() + offset_s
    time.time_ns = lambda: right_time_ns() + offset_ns


if __name__ == "__main__":
    main()
