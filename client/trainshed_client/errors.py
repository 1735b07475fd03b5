"""The errors that cross the wire and what a command makes of them.

Owns the seven error codes and their exit codes; knows nothing of NATS or of any service.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from trainshed_client._compat import StrEnum

if TYPE_CHECKING:  # msgspec, which help screens do without
    from trainshed_client.fold_progress import FoldProgress

MOST_ERRORS = 50
"""So many are told of one request; of the rest how many there are."""


class ErrorCode(StrEnum):
    """What kind of "no" an answer is; the API's ``error.code``."""

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"
    """More than this person or node is granted: requests a second, or runs that wait or run. Later it may be taken."""


class ExitCode(enum.IntEnum):
    """Exit codes of the command line beside a worker's own."""

    OK = 0
    VIOLATION = 1
    BAD_INPUT = 2
    NO_SERVICE = 3
    NO_SUCH_RUN = 4
    TIMED_OUT = 124
    ENDED_WITHOUT_CODE = 125


class WrongField(NamedTuple):
    """One thing that is wrong with a request: the field's path (None: the whole of it), and what is wrong."""

    path: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class TrainshedError(Exception):
    """A refusal that a person can act on: nothing was appended.

    ``path`` names the field of the request, as in ``resources.gpus.requested``. ``errors``: all that is wrong, the first
    of which ``path`` and ``message`` tell; ``more``: how many there are beside these.
    ``progress``: of a service that cannot answer yet, how far it is.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        path: str | None = None,
        errors: Sequence[WrongField] = (),
        more: int = 0,
        *,
        progress: FoldProgress | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.path = path
        self.progress = progress
        self.errors = tuple(errors) or (WrongField(path, message),)
        self.more = more
        lines = [str(wrong) for wrong in self.errors] + ([f"and {more:,} more"] if more else [])
        if len(lines) > 1:
            lines.insert(0, f"{len(self.errors) + more:,} things are wrong:")
        super().__init__("\n  ".join(lines))

    def placed(self, place: str, separator: str = ".") -> TrainshedError:
        """The same about what stands at ``place``: every path goes on from there."""
        return self.with_paths(lambda path: separator.join(filter(None, (place, path))) or None)

    def with_paths(self, path_for: Callable[[str | None], str | None]) -> TrainshedError:
        """The same with another path for each."""
        errors = [WrongField(path_for(path), message) for path, message in self.errors]
        return TrainshedError(
            self.code, self.message, errors[0].path, errors, self.more, progress=self.progress
        )

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a command that ends with this error."""
        if self.code is ErrorCode.NOT_FOUND:
            return ExitCode.NO_SUCH_RUN
        later = self.code in (ErrorCode.UNAVAILABLE, ErrorCode.TOO_MANY)
        return ExitCode.NO_SERVICE if later else ExitCode.BAD_INPUT


class NobodyAnswers(TrainshedError):
    """UNAVAILABLE where no service was reached at all: perhaps there is none, and what was asked for is kept elsewhere."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, message)


class UnknownHost(NobodyAnswers):
    """The server's name stands for no address: waiting for it does not help."""


class Refusals:
    """All that is wrong with a request, as it is found: one error in the end.

    As a context manager it takes the refusal that is raised in it, and goes on; UNAVAILABLE is none.
    """

    def __init__(self) -> None:
        self._first: TrainshedError | None = None
        self._errors: list[WrongField] = []
        self._more = 0

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, TrainshedError) or error.code is ErrorCode.UNAVAILABLE:
            return False  # nothing is said of what was asked
        self.add(error)
        return True

    def add(self, error: TrainshedError) -> None:
        """Something else that is wrong; a path of which something is told already is passed over."""
        self._first = self._first or error
        self._more += error.more
        for wrong in error.errors:
            if len(self._errors) >= MOST_ERRORS:
                self._more += 1
            elif wrong.path is None or all(wrong.path != known.path for known in self._errors):
                self._errors.append(wrong)

    @property
    def error(self) -> TrainshedError | None:
        """All of it; None where nothing is wrong."""
        if self._first is None:
            return None
        path, message = self._errors[0]
        return TrainshedError(self._first.code, message, path, self._errors, self._more)

    def raise_any(self) -> None:
        """Raise TrainshedError where something is wrong."""
        if (error := self.error) is not None:
            raise error


class Unanswered(TrainshedError):
    """A service is there and has not answered in time (UNAVAILABLE): it hangs, or has too much to do."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, message)


class Advised(TrainshedError):
    """One whose text says already what to do; nothing need be added to it."""
