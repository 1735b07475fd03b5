"""How far a reader of the log is, whether it is waited for, and what is printed of a service that is waited for."""

from __future__ import annotations

import asyncio

import pytest

from services.cli.service_notice import LOOK_EVERY_S, ServiceNotice
from services.gateway.gateway import starting
from services.projector.backlog import FEW, Backlog
from services.up.starting import Starting, waited_for
from trainshed_client.answers import error_in
from trainshed_client.errors import ErrorCode
from trainshed_client.fold_progress import FoldProgress


@pytest.mark.parametrize(
    ("folded", "events", "text"),
    [
        (400_000, 1_000_000, "40 % of 1,000,000 events"),
        (0, 7, "0 % of 7 events"),
        (999_999, 1_000_000, "99 % of 1,000,000 events"),
        (7, 7, "99 % of 7 events"),
        (0, 0, "0 % of 0 events"),
        (-5, 7, "0 % of 7 events"),
    ],
)
def test_progress_reads_as_a_share(folded: int, events: int, text: str) -> None:
    assert FoldProgress(folded, events).text == text


def test_a_gateway_that_starts_says_how_far_it_is_in_text_and_numbers() -> None:
    import msgspec

    from services.api import error_answer

    answer = error_answer(starting(FoldProgress(400_000, 1_000_000)))
    assert msgspec.to_builtins(answer) == {
        "error": {
            "code": "unavailable",
            "message": "starting: 40 % of 1,000,000 events",
            "progress": {"folded": 400_000, "events": 1_000_000},
        }
    }
    back = error_in(msgspec.json.encode(answer))
    assert back is not None
    assert (back.code, back.progress) == (ErrorCode.UNAVAILABLE, FoldProgress(400_000, 1_000_000))
    assert starting(None).message == starting(FoldProgress(0, 0)).message == "starting: the event log is read"


@pytest.mark.parametrize(
    ("seq", "end", "now", "near"),
    [
        (1_000, 3_000, 11.0, True),  # 1,000 a second, 2 s to go
        (1_000, 3_001, 11.0, False),
        (1_000, 500_000, 11.0, False),
        (9_000, 9_000, 99.0, True),  # there
        (9_001, 9_000, 99.0, True),
        (0, FEW, 10.5, True),  # nothing yet: few events are near at first
        (0, FEW + 1, 10.5, False),
        (0, FEW, 12.0, False),  # a first batch that takes so long is none of a fast fold
    ],
)
def test_what_is_reached_soon_is_waited_for(seq: int, end: int, now: float, near: bool) -> None:
    assert Backlog(0, 10.0).is_near(seq, end, now, within_s=2.0) is near


def noted(*heard: tuple[float, str, str | None], follows: bool) -> list[str]:
    lines: list[str] = []
    now = 0.0
    notice = ServiceNotice(lines.append, follows=follows, clock=lambda: now)
    for now, service, why in heard:
        notice(service, why)
    return lines


def test_what_is_waited_for_is_printed_once_and_its_progress_now_and_then() -> None:
    heard = [
        (0.0, "the gateway", "starting: 1 %"),
        (0.5, "the gateway", "starting: 2 %"),
        (1.0, "the projector", "no answer"),
        (LOOK_EVERY_S, "the gateway", "starting: 20 %"),
        (99.0, "the projector", "no answer"),
        (99.0, "the gateway", None),
        (99.0, "the gateway", None),
    ]
    assert noted(*heard, follows=True) == [
        "the gateway: starting: 1 %; waiting",
        "the projector: no answer; waiting",
        "the gateway: starting: 20 %; waiting",
        "the gateway answers again",
    ]
    assert noted(*heard, follows=False) == noted(*heard, follows=True)[:-1]


class Part:
    """A service by its name."""

    def __init__(self, name: str, *, ready: bool) -> None:
        self.name = name
        self.ready = asyncio.Event()
        if ready:
            self.ready.set()

    async def run(self) -> None: ...

    def stop(self) -> None: ...


async def test_a_start_says_what_it_waits_for_whenever_that_changes_and_nothing_once_it_is_ready() -> None:
    fold, agent = Part("fold", ready=False), Part("agent", ready=False)
    heard: list[str] = []
    async with asyncio.timeout(10), Starting(heard.append, every_s=0.001) as starting:

        async def hears(text: str) -> None:
            while heard[-1:] != [text]:
                await asyncio.sleep(0.001)

        await hears("still starting: nats-server not ready")
        starting.look = lambda: waited_for([fold, agent], FoldProgress(4, 10))
        await hears("starting: 40 % of 10 events")
        starting.look = lambda: waited_for([fold, agent], None)
        await hears("still starting: fold, agent not ready")
        fold.ready.set()
        await hears("still starting: agent not ready")
        agent.ready.set()
        assert starting._task is not None
        await starting._task
    assert len(heard) == 4
