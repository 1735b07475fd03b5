"""Output of runs to this command's own stdout and stderr, byte for byte.

Owns which stream goes where and the lines between attempts; knows nothing of how output is read.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from services.cli.common import note, write_now

if TYPE_CHECKING:
    from trainshed_client.output_range import OutputChunk


def print_attempt(attempt: int, node: str) -> None:
    """The line before a later attempt's output."""
    if attempt > 1:
        note(f"-- attempt {attempt} on {node} --")


async def print_chunks(chunks: AsyncIterator[OutputChunk], *, merged: bool, only: str | None = None) -> None:
    """Write chunks as they come; ``merged``: both streams to stdout; ``only``: one stream alone."""
    async for chunk in chunks:
        if only is not None and chunk.stream != only:
            continue
        stream = sys.stderr if chunk.stream == "stderr" and not merged else sys.stdout
        # In a thread: a pipe that nobody reads must not keep the connection from its pings.
        await asyncio.to_thread(write_now, stream, chunk.data)
