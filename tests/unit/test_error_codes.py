"""What a command's exit code is, by the code of the error that it ends with."""

from __future__ import annotations

import pytest

from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError

EXITS = {
    ErrorCode.INVALID: ExitCode.BAD_INPUT,
    ErrorCode.NOT_FOUND: ExitCode.NO_SUCH_RUN,
    ErrorCode.CONFLICT: ExitCode.BAD_INPUT,
    ErrorCode.DENIED: ExitCode.BAD_INPUT,
    ErrorCode.UNAVAILABLE: ExitCode.NO_SERVICE,
    ErrorCode.TOO_LARGE: ExitCode.BAD_INPUT,
    ErrorCode.TOO_MANY: ExitCode.NO_SERVICE,
}


@pytest.mark.parametrize("code", ErrorCode)
def test_each_code_has_its_exit_code(code: ErrorCode) -> None:
    assert TrainshedError(code, "no").exit_code is EXITS[code]
