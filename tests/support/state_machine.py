"""Writes docs/state_machine.md from what evolve does: every event tried on a run in every status.

``python -m tests.support.state_machine`` prints it; a test says when the page is not current.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.support.builders import Story
from trainshed_client.statuses import FailureReason, RunStatus

ONE_TRY: dict[str, object] = {"max_attempts": 1}
MORE_TRIES: dict[str, object] = {"max_attempts": 9, "backoff_s": 0}


def _submitted(retry: dict[str, object]) -> Story:
    story = Story()
    story.elect()
    story.join()
    story.submit(retry=retry)
    return story


def _dispatching(retry: dict[str, object]) -> Story:
    story = _submitted(retry)
    story.dispatch()
    return story


def _running(retry: dict[str, object]) -> Story:
    story = _dispatching(retry)
    story.start()
    return story


def _cancelling(make: Callable[[dict[str, object]], Story]) -> Callable[[dict[str, object]], Story]:
    def cancelling(retry: dict[str, object]) -> Story:
        story = make(retry)
        story.cancel()
        return story

    return cancelling


def _ended(status: RunStatus) -> Callable[[dict[str, object]], Story]:
    def ended(_: dict[str, object]) -> Story:
        story = _running(ONE_TRY)
        match status:
            case RunStatus.COMPLETED:
                story.complete()
            case RunStatus.FAILED:
                story.fail()
            case _:
                story.cancel()
                story.stopped()
        return story

    return ended


STATES: dict[str, Callable[[dict[str, object]], Story]] = {
    "PENDING": _submitted,
    "PENDING, cancel requested": _cancelling(_submitted),
    "DISPATCHING": _dispatching,
    "DISPATCHING, cancel requested": _cancelling(_dispatching),
    "RUNNING": _running,
    "RUNNING, cancel requested": _cancelling(_running),
    "COMPLETED": _ended(RunStatus.COMPLETED),
    "FAILED": _ended(RunStatus.FAILED),
    "CANCELLED": _ended(RunStatus.CANCELLED),
}


def _removed(story: Story) -> None:
    story.lose()
    story.remove()


def _not_listed(story: Story) -> None:
    started = story.status() is RunStatus.RUNNING
    story.join()
    story.verdict(FailureReason.SHIM_LOST if started else FailureReason.NOT_STARTED)


EVENTS: dict[str, tuple[str, Callable[[Story], object], dict[str, object]]] = {
    "CancelRequested": ("gateway", lambda story: story.cancel(), ONE_TRY),
    "RetryRequested of its last attempt": ("gateway", lambda story: story.retry(), ONE_TRY),
    "NodeRemoved of its node, no try left": ("gateway", _removed, ONE_TRY),
    "NodeRemoved of its node, tries left": ("gateway", _removed, MORE_TRIES),
    "Dispatched of its next attempt": ("dispatcher", lambda story: story.dispatch(), ONE_TRY),
    "Dispatched of any other attempt": ("dispatcher", lambda story: story.dispatch(attempt=7), ONE_TRY),
    "Dispatched of another epoch": ("dispatcher", lambda story: story.dispatch(epoch=0), ONE_TRY),
    "Stopping": ("dispatcher", lambda story: story.stop(), ONE_TRY),
    "Cancelled of its next attempt": ("dispatcher", lambda story: story.cancelled_unstarted(), ONE_TRY),
    "Failed of an attempt that the node's join lacks, no try left": ("dispatcher", _not_listed, ONE_TRY),
    "NodeLost of its node": ("dispatcher", lambda story: story.lose(), ONE_TRY),
    "Started": ("agent", lambda story: story.start(), ONE_TRY),
    "Completed": ("agent", lambda story: story.complete(), ONE_TRY),
    "ArtifactsHashed": ("agent", lambda story: story.artifacts_hashed(), ONE_TRY),
    "Failed or TimedOut, no try left": ("agent", lambda story: story.fail(), ONE_TRY),
    "Failed or TimedOut, tries left": ("agent", lambda story: story.time_out(), MORE_TRIES),
    "Failed not_started": (
        "agent",
        lambda story: story.fail(reason=FailureReason.NOT_STARTED),
        ONE_TRY,
    ),
    "Cancelled": ("agent", lambda story: story.stopped(), ONE_TRY),
    "any word of another node": ("agent", lambda story: story.complete(node="gpu02"), ONE_TRY),
}


def result(state: str, event: str) -> str:
    """What the event makes of a run in this state, as a cell of the table says it."""
    _, tell, retry = EVENTS[event]
    story = STATES[state](retry)
    before = story.run()
    tell(story)
    after = story.run()
    if after == before:
        return "late" if story.change.late is not None else "·"
    if after.attempt != before.attempt:
        return f"{after.status}, next attempt"
    if after.status is not before.status:
        return str(after.status)
    return "cancel requested" if after.cancel_requested and not before.cancel_requested else "noted"


def transitions() -> list[tuple[str, str, str]]:
    """(status, event, status) of all that change a status, for the picture."""
    out: dict[tuple[str, str], list[str]] = {}
    for event in EVENTS:
        for state in STATES:
            status = state.partition(",")[0]
            after = result(state, event).partition(",")[0]
            if after in RunStatus.__members__ and (after != status or "next attempt" in result(state, event)):
                told = out.setdefault((status, after), [])
                name = event.partition(" of ")[0].partition(",")[0].replace(" or TimedOut", "")
                if name not in told:
                    told.append(name)
    return [(before, after, ", ".join(names)) for (before, after), names in out.items()]


def page() -> str:
    """The whole of docs/state_machine.md."""
    head = [
        "# What each event makes of a run",
        "",
        "Made from the code's own behaviour by `python -m tests.support.state_machine`; a test fails where it is not",
        "current. `events/run_machine.py` is the only place that changes a status, and every reader of the log uses it.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> PENDING: Submitted",
        *(f"    {before} --> {after}: {names}" for before, after, names in transitions()),
        "```",
        "",
        "In the table `·` is no change, `late` an end that came after the attempt's first (it is kept as `late_result`),",
        "`noted` a change that is not one of status; the writer of an event stands after it.",
        "",
    ]
    states = list(STATES)
    table = [
        "| event | " + " | ".join(states) + " |",
        "| --- |" + " --- |" * len(states),
        *(
            f"| {event} *({EVENTS[event][0]})* | "
            + " | ".join(result(state, event) for state in states)
            + " |"
            for event in EVENTS
        ),
    ]
    tail = [
        "",
        "A run ends an attempt and is queued again in one step, never through FAILED; `not_started` queues it again",
        "whatever its policy says, after 1 s doubling to 60 s, and is no try (of a RUNNING one it counts as `shim_lost`).",
        "Once a cancel is requested nothing queues it again, and only a Completed that is first leaves it COMPLETED.",
        "RetryRequested alone leaves an ended status.",
        "",
    ]
    return "\n".join(head + table + tail)


if __name__ == "__main__":
    print(page(), end="")
