"""The errors that cross the wire and what a command makes of them.

Owns the six error codes and their exit codes; knows nothing of NATS or of any service.
"""

from __future__ import annotations

import enum


class ErrorCode(enum.StrEnum):
    """What kind of "no" an answer is; the API's ``error.code``."""

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    TOO_LARGE = "too_large"


class ExitCode(enum.IntEnum):
    """Exit codes of the command line beside a worker's own."""

    OK = 0
    VIOLATION = 1
    BAD_INPUT = 2
    NO_SERVICE = 3
    NO_SUCH_RUN = 4
    TIMED_OUT = 124
    ENDED_WITHOUT_CODE = 125


class TrainshedError(Exception):
    """A refusal that a person can act on: nothing was appended.

    ``path`` names the field of the request, as in ``resources.gpus.requested``.
    """

    def __init__(self, code: ErrorCode, message: str, path: str | None = None) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.code = code
        self.message = message
        self.path = path

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a command that ends with this error."""
        match self.code:
            case ErrorCode.NOT_FOUND:
                return ExitCode.NO_SUCH_RUN
            case ErrorCode.UNAVAILABLE:
                return ExitCode.NO_SERVICE
            case _:
                return ExitCode.BAD_INPUT
