"""`trainshed audit rebuild`: has the read model built again from the log, and shows how far that is.

Owns what is printed; building and putting it in its place are the projector's.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from services.cli.common import (
    connected,
    detach_on_interrupt,
    json_option,
    log_errors,
    nats_option,
    note,
    print_json,
    run_async,
)
from services.cli.verb import verb

if TYPE_CHECKING:
    from trainshed_client.client import Trainshed

SIGN_WITHIN_S = 10.0
"""The projector says every half second how far it is."""


@verb("trainshed audit rebuild", name="rebuild")
@json_option
@nats_option
def rebuild(as_json: bool) -> None:
    """Have the read model, which ls, show and all other questions are answered from, built again from the event log.

    It is built beside the one that is there, and put in its place once it is whole: questions are answered all the while.
    Where several projectors run, the one that answers rebuilds its own. Ctrl-C leaves it to go on.
    """
    done = run_async(_rebuild())
    if as_json:
        print_json(done)
        return
    end, state_hash = f"{done['seq']:,}", f"{done['state_hash'][:12]}…"
    compared = "the same as before" if done["same"] else "not the same as before"
    click.echo(
        f"rebuilt from the log up to {end} in {done['seconds']:.1f} s: {compared} (state hash {state_hash})"
    )
    click.echo(f"  {done['database']} on {done['host']}")
    if not done["same"]:
        note(
            "the tables were not what the log says; they are now. Is the log what it was? trainshed audit verify"
        )


async def _rebuild() -> dict[str, Any]:
    import msgspec

    from services.cli.how_far import how_far

    events = 0
    async with connected() as trainshed:
        detach_on_interrupt(lambda: "it goes on without you")
        with log_errors(trainshed), how_far("rebuilding", sys.stderr.isatty()) as progress:
            async for answer in _answers(trainshed):
                heard: dict[str, Any] = msgspec.json.decode(answer)
                if "progress" not in heard:
                    progress(events, events)
                    return heard
                events = heard["progress"]["events"]
                progress(heard["progress"]["folded"], events)
    raise AssertionError("there is always a last answer, or an error")


async def _answers(trainshed: Trainshed) -> AsyncIterator[bytes]:
    """What ``audit.rebuild`` answers. Raises TrainshedError."""
    from trainshed_client import subjects
    from trainshed_client.answers import error_in
    from trainshed_client.errors import ErrorCode, NobodyAnswers, TrainshedError

    nc = trainshed.nc
    inbox = nc.new_inbox()
    answers = await nc.subscribe(inbox)
    await nc.publish(subjects.api("audit.rebuild"), b"{}", reply=inbox)
    while True:
        try:
            message = await answers.next_msg(timeout=SIGN_WITHIN_S)
        except TimeoutError:
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                f"the projector at {trainshed.where} has said nothing for {SIGN_WITHIN_S:g} s; what is there stays until "
                "another is whole. Is it up? trainshed ls",
            ) from None
        if (message.headers or {}).get("Status") == "503":
            raise NobodyAnswers(f"no projector answers at {trainshed.where}. Start one: trainshed up")
        if (error := error_in(message.data)) is not None:
            raise error
        yield message.data
