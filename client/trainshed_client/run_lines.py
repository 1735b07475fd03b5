"""What a run writes, line by line as it comes: its metrics, and the telemetry in its stdout.

Owns that a run's output is cut into lines while it is followed; knows nothing of what a line is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from trainshed_client.self_entering import SelfEntering

if TYPE_CHECKING:
    from typing_extensions import Self

    from trainshed_client.follow import RunOutput
    from trainshed_client.output_range import OutputChunk
    from trainshed_client.records import RunRecord

T = TypeVar("T")


class RunLines(SelfEntering[T]):
    """An async iterator of lines, attempt after attempt until the run has ended, and a context manager that closes it.

    ``record`` and ``missing`` as for `RunOutput`. Raises what that raises. Not for use by two tasks at once.
    """

    def __init__(self, output: RunOutput, cut: Callable[[OutputChunk], Iterable[T]]) -> None:
        self._output = output
        self._cut = cut
        self._lines: deque[T] = deque()

    @property
    def record(self) -> RunRecord:
        """The newest record of the run."""
        return self._output.record

    @property
    def missing(self) -> list[str]:
        """What could not be read for good, and why."""
        return self._output.missing

    async def __aenter__(self) -> Self:
        await self._output.__aenter__()
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._output.__aexit__(kind, error, trace)

    async def __anext__(self) -> T:
        while not self._lines:
            self._lines.extend(self._cut(await self._output.__anext__()))
        return self._lines.popleft()
