"""A shim's kills: what it may not signal is told, and telling it never ends an attempt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COMPLAIN = "from services.agent.shim import process_tree as t; t._complain(1); t._complain(1); print('lives')"


def test_what_may_not_be_signalled_is_told_once() -> None:
    ended = subprocess.run([sys.executable, "-c", COMPLAIN], capture_output=True, text=True, check=True)
    assert ended.stderr == "not allowed to signal process 1; the attempt ends when it does\n"


def test_a_full_disk_under_the_log_ends_nothing() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", COMPLAIN], stdout=subprocess.PIPE, stderr=full, text=True, check=True
        )
    assert ended.stdout == "lives\n"
