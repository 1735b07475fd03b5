"""A page that is typed from top to bottom as its reader would: what it shows is compared, and can be written anew.

Owns the page's form (files by their first line, `sh` to be typed, `console` with what the terminal shows) and what differs
from one session to the next; knows no page.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

WITHIN_S = 60.0
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_RUN_ID = re.compile(r"\b[a-z2-7]{26}\b")
_ROW = r"^\s*([a-z2-7]{6})(?:\.\d+)?\s+(%s)\b"
_COUNTED = (
    (re.compile(r"^memory_mb is .*\n", re.MULTILINE), ""),  # this machine's memory controller
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\+[0-9a-f]{8}\+"), "+KEY+"),
    (re.compile(r"(?<![\w/.-])(?=[^\n ]*[A-Z+/=])[A-Za-z0-9+/]{40,}=*"), "BASE64"),
    (re.compile(r"\b[0-9a-f]{12,64}\b…?"), "HEX"),
    (re.compile(r"just now|\d+ s ago"), "HEARD"),
    (re.compile(r"(?<![\w.])(?!0\.\d{3,4}\b)\d(?:[\d.,:TZ]|-(?=\d))*(?:ms|[dhms]\d*)*"), "N"),
)
"""What is another at each time, in this order: a figure is kept only where it reads as a share, with three digits or more."""


class Block(NamedTuple):
    """What stands between two fences, and where in the page."""

    kind: str
    text: str
    start: int
    end: int

    @property
    def file(self) -> str | None:
        """The name of the file that this is, by its first line (`# train.py: what it is`)."""
        named = re.match(r"# ([\w.-]+)\b", self.text)
        return named[1] if named and self.kind not in ("sh", "console") else None

    def typed(self) -> Iterator[tuple[str, str]]:
        """Each command of a session, and what the page shows below it."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield command, shown


def blocks(page: str) -> list[Block]:
    """All of a page, in order."""
    return [Block(found[1], found[2], found.start(2), found.end(2)) for found in _FENCE.finditer(page)]


def masked(text: str, names: Mapping[str, str]) -> str:
    """``text`` without what differs between sessions. ``names``: the beginning of a run's id → its name."""
    text = _RUN_ID.sub(lambda found: names.get(found[0][:6], "RUN"), text)
    for short, name in names.items():
        text = re.sub(rf"\b{short}\b", name, text)
    for pattern, instead in _COUNTED:
        text = pattern.sub(instead, text)
    return " ".join(text.split())  # where a line is cut hangs on how long the times in it are


def named(text: str, runs: tuple[str, ...]) -> dict[str, str]:
    """The beginning of a run's id → its name, for each of ``runs`` that has a row in a table or a line of its own."""
    row = re.compile(_ROW % "|".join(runs), re.MULTILINE)
    return {found[1]: f"<{found[2]}>" for found in row.finditer(text)}


def on_a_terminal(command: str, environment: Mapping[str, str], cwd: Path, columns: int) -> str:
    """What a terminal shows of a command line, both its streams."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        env={**environment, "TERM": "xterm", "COLUMNS": str(columns), "NO_COLOR": "1"},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + WITHIN_S
    while True:
        left = deadline - time.monotonic()
        assert left > 0 and select.select([ours], [], [], left)[0], f"{command}: not within {WITHIN_S} s"
        try:
            data = os.read(ours, 65536)
        except OSError:  # Linux: nobody has the other end open any more
            break
        if not data:
            break
        shown += data
    os.close(ours)
    process.wait(30)
    return shown.decode().replace("\r\n", "\n")
