"""The metrics of an attempt while it runs: what stdout tells of them is handed in, and what metrics.jsonl gains is published.

Owns how far each was read; the file alone says what has arrived there. Knows no event log and no shim.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from events.types import AttemptRef
from services.agent.folders.paths import METRICS, OUTPUT_FILES
from services.agent.output import metrics_range
from services.agent.output.measured import LineReader, MeasuredLine
from services.agent.output.metrics_range import MetricsRange
from services.agent.output.tails import ANSWERS_WITHIN_S, CHUNK, TURN_BYTES, TURN_S, Output
from services.daemon_thread import in_daemon_thread
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.os_errors import cause

_log = get_logger("agent")

LOST_AFTER_S = 5.0
"""Seconds after which lines that were handed in and are not in the file yet are handed in again; then twice as long ..."""
LOST_AT_MOST_S = 60.0
AHEAD_LINES = 20_000
"""Lines that may be handed in and not in the file yet: stdout is read no further then."""
_OFFSETS = re.compile(rb',"offset":(\d+)\}\n')

HandIn = Callable[[Iterable[MeasuredLine]], int]
"""Hands lines to the attempt's shim, and returns how many it could be handed now."""
LastHandedIn = Callable[[Path], int]
"""Where the last line of stdout begins that the file has; -1: none. Blocks; raises OSError."""


class _Look(msgspec.Struct, frozen=True):
    """What one look found: new lines of the file, and what is new in stdout."""

    news: MetricsRange
    lines: list[MeasuredLine]


class MetricsTail:
    """The metrics of one attempt. ``adopted``: an agent before this one may have handed in a part."""

    def __init__(
        self,
        output: Output,
        ref: AttemptRef,
        folder: Path,
        hand_in: HandIn,
        last_handed_in: LastHandedIn,
        *,
        adopted: bool,
    ) -> None:
        self._output = output
        self._ref = ref
        self._folder = folder
        self._subject = subjects.output(ref.run_id, ref.attempt, output.node, "metrics")
        self._reader = LineReader(folder / OUTPUT_FILES[0])
        self._hand_in = hand_in
        self._last_handed_in = last_handed_in
        self._look_back = adopted
        """Whether the file may have more lines of stdout than is known here."""
        self._published = 0
        self._arrived = -1
        """Where the last line of stdout begins that the file has."""
        self._waiting: deque[MeasuredLine] = deque()
        """Lines that are not handed in yet."""
        self._ahead: deque[MeasuredLine] = deque()
        """Lines that are handed in, and not in the file yet."""
        self._lost_after_s = LOST_AFTER_S
        self._lost_at = 0.0
        self._dirty = asyncio.Event()

    def wake(self) -> None:
        """Something has grown: stdout or the file."""
        self._dirty.set()

    async def run(self) -> None:
        """Hand in and publish what comes, until cancelled; then `finish`."""
        try:
            while True:
                self._dirty.clear()
                look = await in_daemon_thread(self._look)
                await self._publish(look.news)
                self._arrive(look)
                if look.news.data or look.lines or self._waiting or not self._reader.at_end:
                    await asyncio.sleep(TURN_S)
                else:
                    await self._woken()
        except OSError as error:
            self._warn("metrics are no longer followed while it runs", error)

    async def finish(self) -> None:
        """The file will have no more: publish what is left, and its size last."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                news = await in_daemon_thread(self._news)
        except OSError as error:
            self._warn("the rest of the metrics was not published; the file has it all", error)
            return
        await self._publish(news)
        if not news.size:
            return
        size = str(news.size)
        headers = {subjects.OFFSET_HEADER: size, subjects.SIZE_HEADER: size}
        await self._output.publish(self._subject, b"", headers)

    def _warn(self, what: str, error: OSError) -> None:
        why = "its storage does not answer" if isinstance(error, TimeoutError) else cause(error)
        _log.warning(what, run_id=self._ref.run_id, attempt=self._ref.attempt, error=why)

    async def _woken(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._lost_at if self._ahead else None):
                await self._dirty.wait()

    def _look(self) -> _Look:
        """For a thread. Raises OSError."""
        if self._look_back:
            self._look_back = False
            self._arrived = self._last_handed_in(self._folder)
            self._reader.seek(max(0, self._arrived))
        lines: list[MeasuredLine] = []
        if len(self._ahead) + len(self._waiting) < AHEAD_LINES:
            lines = [line for line in self._reader.read() if line.offset > self._arrived]
        return _Look(self._news(), lines)

    def _news(self) -> MetricsRange:
        return metrics_range.read(self._folder / METRICS, self._published, TURN_BYTES, newest=True)

    def _arrive(self, look: _Look) -> None:
        """See what has arrived in the file, and hand in what has not been."""
        now = asyncio.get_running_loop().time()
        self._waiting.extend(look.lines)
        if (offsets := _OFFSETS.findall(look.news.data)) and int(offsets[-1]) > self._arrived:
            self._arrived = int(offsets[-1])
            self._lost_after_s = LOST_AFTER_S
            self._lost_at = now + LOST_AFTER_S
        while self._ahead and self._ahead[0].offset <= self._arrived:
            self._ahead.popleft()
        if self._ahead and now >= self._lost_at:
            # The shim hangs, is of a release that takes none, or its socket was made anew: by the file, once more.
            self._lost_after_s = min(2 * self._lost_after_s, LOST_AT_MOST_S)
            self._look_back = True
            self._ahead.clear()
            self._waiting.clear()
            return
        if not self._ahead:
            self._lost_at = now + self._lost_after_s
        for _ in range(self._hand_in(self._waiting)):
            self._ahead.append(self._waiting.popleft())

    async def _publish(self, news: MetricsRange) -> None:
        self._published = news.size
        offset, rest = news.offset, news.data
        while rest:
            chunk = rest[: rest.rfind(b"\n", 0, CHUNK) + 1] or rest
            await self._output.publish(self._subject, chunk, {subjects.OFFSET_HEADER: str(offset)})
            offset, rest = offset + len(chunk), rest[len(chunk) :]
