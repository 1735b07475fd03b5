"""Reading while no stack answers: what this machine's state folder holds, said to be that, and exit code 3.

Owns when that is done and what stderr says of it; must cost nothing where a stack answers.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from services.cli.common import connected, exit_in_the_end, given_nats, note, run_async
from trainshed_client.endpoint import CREDENTIALS, worker_socket
from trainshed_client.errors import ErrorCode, ExitCode, NobodyAnswers, TrainshedError

if TYPE_CHECKING:
    from services.state_at_rest import StateAtRest
    from trainshed_client.client import Trainshed

T = TypeVar("T")


def reading(
    main: Callable[[Trainshed], Awaitable[T]], *, patient: bool = False, of_the_past: bool = False
) -> T:
    """What ``main`` reads of the stack; where none answers, of this machine's state folder, and the exit code is 3.

    ``of_the_past``: as of a moment that the log alone knows, which no state folder tells. ``main`` may be called twice, and must print nothing before it was answered once. Raises TrainshedError.
    """

    async def read() -> T:
        try:
            async with connected(patient=patient) as trainshed:
                return await main(trainshed)
        except NobodyAnswers as error:
            if not _own_stack():
                raise
            unanswered = error
        if of_the_past:
            raise NobodyAnswers(
                f"{unanswered.message}\nHow things stood at an earlier moment is read from the event log, by the stack"
            )
        return await _read_at_rest(main, unanswered)

    return run_async(read())


def at_rest(trainshed: Trainshed) -> bool:
    """Whether it is the state folder that is read: nothing more comes from there."""
    return hasattr(trainshed.connection, "as_of")  # its class costs the import of SQL


@contextmanager
def only_there() -> Iterator[None]:
    """From here on nobody else is asked where who answered first answers no more: something was printed already."""
    try:
        yield
    except NobodyAnswers as error:
        raise TrainshedError(error.code, error.message) from None


def _own_stack() -> bool:
    """Whether it was the stack of this machine's state folder that was asked."""
    variables = ("TRAINSHED_NATS_URL", "NATS_URL", CREDENTIALS)
    named = given_nats() or any(os.environ.get(name) for name in variables)
    return not named and worker_socket() is None


async def _read_at_rest(main: Callable[[Trainshed], Awaitable[T]], unanswered: NobodyAnswers) -> T:
    from trainshed_client.client import Trainshed

    state = _state(unanswered)
    note(f"Error: {unanswered}")
    note(_as_of(state))
    async with Trainshed(state) as trainshed:
        try:
            result = await main(trainshed)
        except TrainshedError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            # that it is not there, only the stack can say
            raise TrainshedError(ErrorCode.UNAVAILABLE, error.message, error.path) from None
    exit_in_the_end(ExitCode.NO_SERVICE)
    return result


def _state(unanswered: NobodyAnswers) -> StateAtRest:
    """Raises what the stack's absence is, with why the state folder does not help where there is one."""
    from trainshed_client.endpoint import default_state_dir
    from trainshed_client.os_errors import cause

    folder = default_state_dir(os.environ)
    if not any(os.path.exists(folder / name) for name in ("node.json", "trainshed.db")):
        raise unanswered
    from services.settings import Settings
    from services.state_at_rest import StateAtRest

    try:
        return StateAtRest(Settings.read())
    except (TrainshedError, OSError) as error:
        raise TrainshedError(ErrorCode.UNAVAILABLE, f"{unanswered.message}\n{cause(error)}") from None


def _as_of(state: StateAtRest) -> str:
    from services.cli.clock import now
    from services.cli.text import seconds_between, time_of_day
    from trainshed_client.rendering.ago import ago

    seconds = seconds_between(state.as_of.time, now())
    since = "" if seconds is None else f", {ago(seconds)}"
    return (
        f"What {state.where} held when it was last written (event {state.as_of.seq}, {time_of_day(state.as_of.time)}{since}); "
        "what has happened since is not known:"
    )
