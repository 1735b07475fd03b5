"""Output of runs to this command's own stdout and stderr: byte for byte, but for what a terminal should not heed.

Owns which stream goes where and the lines between attempts; knows nothing of how output is read.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TextIO

from services.cli.common import note, write_now
from services.cli.terminal_output import TerminalOutput

if TYPE_CHECKING:
    from trainshed_client.output_range import OutputChunk


def print_attempt(attempt: int, node: str) -> None:
    """The line before a later attempt's output."""
    if attempt > 1:
        note(f"-- attempt {attempt} on {node} --")


async def print_chunks(chunks: AsyncIterator[OutputChunk], *, merged: bool, only: str | None = None) -> None:
    """Write chunks as they come; ``merged``: both streams to stdout; ``only``: one stream alone."""
    shown: dict[tuple[int, str], TerminalOutput] = {}
    try:
        async for chunk in chunks:
            if only is not None and chunk.stream != only:
                continue
            stream, data = _goes_to(chunk.stream, merged), chunk.data
            if stream.isatty():
                data = shown.setdefault((chunk.attempt, chunk.stream), TerminalOutput()).feed(data)
            # In a thread: a pipe that nobody reads must not keep the connection from its pings.
            await asyncio.to_thread(write_now, stream, data)
    finally:
        for (_, name), output in shown.items():
            write_now(_goes_to(name, merged), output.finish())


def _goes_to(stream: str, merged: bool) -> TextIO:
    return sys.stderr if stream == "stderr" and not merged else sys.stdout
