"""What the verbs share: options, the connection, the event loop, and words on stderr.

Owns how a verb talks to its caller; knows no verb.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from events.stored_log import StoredLog
    from trainshed_client.client import Trainshed
    from trainshed_client.fold_progress import FoldProgress

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130


def nats_option(function: F) -> F:
    """``--nats URL`` after the verb, too."""

    def remember(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.ensure_object(dict)["nats"] = value

    return click.option(
        "--nats", metavar="URL", expose_value=False, callback=remember, help="The stack to talk to."
    )(function)


def given_nats() -> str | None:
    """What ``--nats`` says, before the verb or after it; None where it was not given."""
    context = click.get_current_context(silent=True)
    url: str | None = (context.obj or {}).get("nats") if context else None
    return url


def json_option(function: F) -> F:
    """``--json``: one object on one line, for programs."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on one line.")(function)


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a verb's coroutine."""
    return asyncio.run(main)


@asynccontextmanager
async def connected(*, patient: bool = False, of_runs: bool = True) -> AsyncIterator[Trainshed]:
    """The stack that this command talks to. ``patient``, for what lasts: say when the connection is lost, or where
    runs are followed (``of_runs``) the projector does not answer."""
    from services.cli.service_notice import ServiceNotice
    from trainshed_client.client import Trainshed
    from trainshed_client.errors import NobodyAnswers, TrainshedError

    async def lost() -> None:
        note("the connection is lost; waiting for the stack (is `trainshed up` running?)")

    async def back() -> None:
        note("connected again")

    trainshed = await Trainshed.connect(
        given_nats(),
        name=f"trainshed-cli-{os.getpid()}",
        on_error=_quiet,
        on_disconnect=lost if patient else None,
        on_reconnect=back if patient else None,
        on_waiting=(notice := ServiceNotice(note, follows=patient)),
        patient=patient,
    )
    looking = asyncio.create_task(notice.look_at_the_projector(trainshed)) if patient and of_runs else None
    try:
        yield trainshed
        await _renew(trainshed)
    except TrainshedError:
        raise
    except Exception as error:
        import nats.errors  # loaded with the connection

        from services.lifecycle import first_cause

        why = first_cause(error)
        if not isinstance(why, nats.errors.Error | TimeoutError):
            raise
        # at a moment when nothing waits for the connection to be made anew: between two questions, or before the first
        raise NobodyAnswers(
            f"the connection to {trainshed.where} failed ({_text(why)}). Is the stack up? trainshed up",
        ) from None
    finally:
        if looking is not None:
            looking.cancel()
            await asyncio.wait({looking})
        # Not drained: everything that was asked for has been answered, and the process ends.
        await trainshed.connection.abandon()


async def _renew(trainshed: Trainshed) -> None:
    """Have an eye on the certificate that a token gave, now and then."""
    from datetime import UTC, datetime

    from services.cli import renewal
    from trainshed_client.endpoint import discover
    from trainshed_client.nats_connection import NatsConnection

    if not isinstance(trainshed.connection, NatsConnection):
        return  # a worker's, which has no certificate
    endpoint, now = discover(given_nats()), datetime.now(UTC)
    if renewal.is_time(endpoint, now):
        await renewal.look(trainshed.nc, endpoint, now)


@contextmanager
def log_errors(trainshed: Trainshed) -> Iterator[None]:
    """What goes wrong where the log is read directly, as an error that says what to do."""
    import nats.errors

    from events.log import UnknownOutcome
    from trainshed_client.errors import ErrorCode, TrainshedError

    try:
        yield
    except (TimeoutError, nats.errors.Error, UnknownOutcome) as error:
        why = _text(error)
        raise TrainshedError(
            ErrorCode.UNAVAILABLE,
            f"the event log at {trainshed.where} cannot be read ({why}). Is the stack up? trainshed up",
        ) from None


def stored_log(trainshed: Trainshed) -> StoredLog:
    """The event log of a stack, to be read."""
    from events.stored_log import StoredLog

    return StoredLog(trainshed.nc, where=trainshed.where, health=trainshed.health)


def _text(error: BaseException) -> str:
    return str(error).removeprefix("nats: ") or "no answer in time"


def _quiet(_: Exception) -> None:
    """Connection errors show themselves in what was asked for, or are told by `connected`."""


def note(message: str) -> None:
    """A line for people, on stderr."""
    click.echo(message, err=True)


def warn(message: str) -> None:
    """A line about what may be wrong, on stderr."""
    note(f"Warning: {message}")


def warn_if_stale(stale: bool, seq: int, progress: FoldProgress | None = None) -> None:
    """Say that an answer may not have everything yet, and how far it is."""
    if stale and progress is not None:
        note(f"stale: {progress.text}; what is shown was true at event {seq:,}")
    elif stale:
        warn(f"the read model lags behind the log; this was true at event {seq}")


def print_json(value: object) -> None:
    """One JSON object on one line of stdout."""
    import msgspec

    from trainshed_client.times import with_texts

    write(value if isinstance(value, bytes) else msgspec.json.encode(with_texts(value)))
    write(b"\n")


def write(data: bytes) -> None:
    """Bytes to stdout, through its buffer."""
    sys.stdout.buffer.write(data)


def write_now(stream: IO[Any], data: bytes) -> None:
    """Bytes to a stream past its buffer, all of them; blocks, so call it in a thread where that matters."""
    stream.flush()
    view = memoryview(data)
    while view:
        view = view[os.write(stream.fileno(), view) :]


def detach_on_interrupt(message: Callable[[], str]) -> None:
    """From here on Ctrl-C ends this command at once, with a line on stderr, and touches nothing else.

    At once: a thread may hang in a write to a pipe that nobody reads, and no cleanup is owed to anybody.
    """

    def detach() -> None:
        sys.stdout.flush()
        note(f"\n{message()}")
        os._exit(INTERRUPTED)

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, detach)


def colour_wanted(stream: IO[Any]) -> bool:
    """Whether to colour: for a terminal that wants it."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def exit_with(code: int) -> None:
    """End the verb with this exit code."""
    click.get_current_context().exit(code)


def exit_in_the_end(code: int) -> None:
    """End the verb with this exit code once it has printed everything."""
    click.get_current_context().ensure_object(dict)["exit"] = int(code)
