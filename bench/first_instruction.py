"""A worker whose first act is to say when it ran: the same program for a bare spawn and for a run.

Owns that program and the pipe it writes to; knows nothing of Trainshed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

_SOURCE = r"""
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct timespec now;
    char line[128];
    int length, fd;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (argc < 3 || (fd = open(argv[1], O_WRONLY | O_APPEND)) < 0) return 1;
    length = snprintf(line, sizeof line, "%s %lld\n", argv[2], now.tv_sec * 1000000000LL + now.tv_nsec);
    return write(fd, line, length) != length;
}
"""
HEARD_S = 20.0


class FirstInstruction:
    """The program (a static one from C where gcc is, else a shell) and a named pipe; `heard` tells its times.

    The shell knows no monotonic clock: then the time is that of our reading the line, for both sides alike.
    """

    def __init__(self, folder: Path) -> None:
        self._pipe = folder / "first.pipe"
        os.mkfifo(self._pipe)
        self._fd = os.open(self._pipe, os.O_RDWR | os.O_NONBLOCK)
        self._waiting: dict[str, asyncio.Future[int]] = {}
        self._rest = b""
        self.static = self._compile(folder)
        if not self.static:
            self._program = ["/bin/sh", "-c", 'echo "$2 0" >> "$1"', "sh"]

    def _compile(self, folder: Path) -> bool:
        gcc = shutil.which("gcc") or shutil.which("cc")
        if gcc is None:
            return False
        source, program = folder / "first.c", folder / "first"
        source.write_text(_SOURCE)
        done = subprocess.run(
            [gcc, "-O2", "-static", "-o", str(program), str(source)], capture_output=True, check=False
        )
        self._program = [str(program)]
        return done.returncode == 0

    def command(self, tag: str) -> list[str]:
        """What to run; its line is known by ``tag``."""
        return [*self._program, str(self._pipe), tag]

    def expect(self, tag: str) -> asyncio.Future[int]:
        """Its first instruction's CLOCK_MONOTONIC time in ns, once it has run."""
        future = self._waiting[tag] = asyncio.get_running_loop().create_future()
        return future

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _read(self) -> None:
        import time

        now = time.monotonic_ns()
        *lines, self._rest = (self._rest + os.read(self._fd, 65536)).split(b"\n")
        for line in lines:
            tag, _, ns = line.decode().partition(" ")
            future = self._waiting.pop(tag, None)
            if future is not None and not future.done():
                future.set_result(int(ns) or now)
