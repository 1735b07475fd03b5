"""Runs in words, tables in columns, and the exit codes that stand for them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from services.cli import describe, ls
from services.cli.listing import COLUMNS, rows
from services.cli.slots import notes
from services.cli.table import Cell, Column, Screen, render, text_width
from services.cli.text import (
    clean,
    count,
    format_bytes,
    metric,
    parse_memory_mb,
    seconds_between,
    short,
    shortest,
)
from tests.support.timeline import entry
from trainshed_client.errors import TrainshedError
from trainshed_client.records import QueuedRunRecord, SlotRecord, TimelineEntry, Wait, WaitsFor
from trainshed_client.rendering import waiting
from trainshed_client.rendering.timeline import (
    CancelRequestedData,
    EndData,
    RetryRequestedData,
    TimelineData,
)
from trainshed_client.statuses import FailureReason, RunStatus, WaitReason

NOW = "2026-11-24T10:00:00.000000Z"


def record(run_id: str = "k3f2q7" + "a" * 20, **given: Any) -> QueuedRunRecord:
    fields: dict[str, Any] = {
        "name": "ppo",
        "status": RunStatus.RUNNING,
        "attempt": 1,
        "digest": "d",
        "seq": 5,
        "submit_seq": 1,
        "priority": 0,
        "labels": {},
        "submitted_at": "2026-11-24T09:00:00.000000Z",
    }
    return QueuedRunRecord(run_id=run_id, **{**fields, **given})


def failed(reason: FailureReason | None, **given: Any) -> QueuedRunRecord:
    times = {"started_at": "2026-11-24T09:10:00.000000Z", "ended_at": "2026-11-24T09:20:00.000000Z"}
    return record(status=RunStatus.FAILED, failure_reason=reason, **{**times, **given})


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (record(status=RunStatus.COMPLETED, exit_code=0), 0),
        (failed(FailureReason.EXIT_CODE, exit_code=3), 3),
        (failed(FailureReason.EXIT_CODE, exit_code=255), 255),
        (failed(FailureReason.SIGNAL, signal=9), 137),
        (failed(FailureReason.WORKER_TIMEOUT, signal=9), 125),
        (failed(FailureReason.TIME_LIMIT, exit_code=0), 125),
        (failed(FailureReason.SPAWN_ERROR), 125),
        (failed(FailureReason.SHIM_LOST), 125),
        (failed(FailureReason.NODE_LOST), 125),
        (failed(FailureReason.NODE_RECLAIMED, signal=15), 125),
        (failed(FailureReason.UNSPECIFIED), 125),
        (failed(None), 125),
        (record(status=RunStatus.CANCELLED, signal=15), 125),
        (record(status=RunStatus.CANCELLED, exit_code=0), 125),
        (record(status=RunStatus.UNSPECIFIED), 125),
    ],
)
def test_a_command_exits_with_the_workers_code_and_125_where_there_is_none(
    ended: QueuedRunRecord, code: int
) -> None:
    assert describe.exit_code_of(ended) == code


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            record(step=120_000, metrics={"reward": 195.21, "loss": 0.03125}),
            "step 120k reward 195.2",
        ),
        (record(metrics={"loss": math.nan, "best": -math.inf}), "loss nan"),
        (record(step=1200), "step 1200"),
        (record(status_text="warming up"), "warming up"),
        (record(progress=0.241), "24%"),
        (record(), "-"),
        (record(cancel_requested=True, step=3), "stopping; step 3"),
        (record(status=RunStatus.COMPLETED, metrics={"reward": 200.0}), "reward 200"),
        (
            record(
                status=RunStatus.PENDING, waits_for=WaitsFor(reason="gpus", text="waiting for 2 free GPUs")
            ),
            "waiting for 2 free GPUs",
        ),
        (
            record(step=120_000, max_steps=1_000_000, metrics={"fps": 81.0, "reward": 195.21}),
            "12% reward 195.2",
        ),
        (
            record(progress=0.999, metrics={"fps": 81.0, "reward": 1.0}, labels={"metric": "fps"}),
            "99% fps 81",
        ),
        (record(progress=0.5, status_text="epoch 3"), "50% epoch 3"),
        (record(progress=0.5, primary_metric="fps", metrics={"fps": 81.0, "loss": 1.0}), "50% fps 81"),
        (record(status=RunStatus.PENDING), "-"),
        (failed(FailureReason.EXIT_CODE, exit_code=3), "exit 3"),
        (failed(FailureReason.EXIT_CODE, exit_code=1, error="KeyError: 'lr'"), "exit 1: KeyError: 'lr'"),
        (
            failed(FailureReason.SPAWN_ERROR, error="working_dir /x: no such folder"),
            "could not be started: working_dir /x: no such folder",
        ),
        (record(status=RunStatus.CANCELLED, exit_code=1, error="KeyError: 'lr'"), "-"),
        (failed(FailureReason.SIGNAL, signal=9), "SIGKILL"),
        (failed(FailureReason.SIGNAL, signal=200), "signal 200"),
        (
            failed(FailureReason.WORKER_TIMEOUT, last_heartbeat_at="2026-11-24T09:15:00.000000Z"),
            "silent for 5m",
        ),
        (failed(FailureReason.TIME_LIMIT), "time limit, after 10m"),
        (failed(FailureReason.NODE_LOST, node="gpu01"), "gpu01 was removed"),
        (
            record(status=RunStatus.CANCELLED, failure_reason=FailureReason.DEPENDENCY_FAILED),
            "a run it comes after did not complete",
        ),
        (record(status=RunStatus.CANCELLED), "-"),
    ],
)
def test_the_last_column_tells_what_matters_now(run: QueuedRunRecord, words: str) -> None:
    assert describe.last(run) == words


GPUS, CPUS = {"gpus": 2, "free": 1, "total": 2}, {"cpus": 9, "free": 3}


@pytest.mark.parametrize(
    ("wait", "whole", "brief"),
    [
        (Wait(reason=WaitReason.CANCEL), "it is being cancelled", "it is being cancelled"),
        (
            Wait(reason=WaitReason.DEPENDENCY, numbers={"runs": 1}, runs=["k" * 26]),
            f"waiting for run {'k' * 26}",
            "after run kkkkkk",
        ),
        (
            Wait(reason=WaitReason.DEPENDENCY, numbers={"runs": 5}, runs=["ka", "kb", "kc", "kd"]),
            "waiting for runs ka, kb, kc and 2 more",
            "after runs ka, kb, kc and 2 more",
        ),
        (
            Wait(reason=WaitReason.DEPENDENCY, numbers={"failed": 1}, runs=["k" * 26]),
            f"run {'k' * 26} did not complete, so this one is being cancelled",
            "run kkkkkk did not complete",
        ),
        (
            Wait(reason=WaitReason.BACKOFF, numbers={"seconds": 12}),
            "waiting until its retry in 12 s",
            "retry in 12 s",
        ),
        (
            Wait(reason=WaitReason.BACKOFF, numbers={"seconds": 3153599998}),
            "waiting for a retry that its back-off (retry.backoff_s) puts off for over 10 years",
            "retry in over 10 years",
        ),
        (Wait(reason=WaitReason.NO_NODE), "no node is up", "no node is up"),
        (
            Wait(reason=WaitReason.NO_NODE, numbers={"drained": 2, "away": 1}),
            "no node takes work (2 drained, 1 lost or left)",
            "no node takes work (2 drained, 1 lost or left)",
        ),
        (
            Wait(reason=WaitReason.TOO_LARGE, numbers={"gpus": 1, "cpus": 2, "memory_mb": 3}),
            "no node that is up has 1 GPU, 2 CPUs and 3 MB of memory",
            "no node that is up has 1 GPU, 2 CPUs and 3 MB of memory",
        ),
        (
            Wait(reason=WaitReason.GPUS, numbers=GPUS),
            "waiting for 2 free GPUs (1 of 2 free)",
            "for 2 GPUs (1 free)",
        ),
        (
            Wait(reason=WaitReason.GPUS, numbers={**GPUS, "free": 2, "total": 4}),
            "waiting for 2 free GPUs on one node (2 of 4 free on several)",
            "for 2 GPUs on one node (2 of 4 free on several)",
        ),
        (
            Wait(reason=WaitReason.CPUS, numbers=CPUS),
            "waiting for 9 free CPUs (3 free on the best node)",
            "for 9 CPUs (3 free on the best node)",
        ),
        (
            Wait(reason=WaitReason.MEMORY, numbers={"memory_mb": 9, "free": 3}),
            "waiting for 9 MB of free memory (3 MB free on the best node)",
            "for 9 MB of memory (3 MB free on the best node)",
        ),
        (
            Wait(reason=WaitReason.RESERVATION, runs=["k" * 26], nodes=["gpu01", "gpu01"]),
            "gpu01 has room, but keeps it for run kkkkkk, which comes first; what that waits for has no time limit",
            "gpu01 is kept for run kkkkkk",
        ),
        (Wait(reason=WaitReason.TURN), "waiting for its turn", "its turn"),
    ],
)
def test_what_a_run_waits_for_is_told_whole_and_beside_its_status_in_few_words(
    wait: Wait, whole: str, brief: str
) -> None:
    assert waiting.text(wait) == whole
    waits_for = WaitsFor(reason=wait.reason, text=whole)
    queued = record(status=RunStatus.PENDING, waits_for=waits_for, waiting=wait)
    assert describe.last_in_brief(queued, NOW, short) == brief


@pytest.mark.parametrize("data", [None, {"reason": "quota", "numbers": {"share": 0.5}}])
def test_what_another_release_says_of_it_is_told_by_its_text(data: object) -> None:
    waits_for = {"reason": "quota", "text": "waiting for its share"}
    bare = msgspec.to_builtins(record(status=RunStatus.PENDING))
    queued = msgspec.convert({**bare, "waits_for": waits_for, "waiting": data}, QueuedRunRecord)
    assert describe.last_in_brief(queued, NOW) == "waiting for its share"


def entries(*happened: tuple[str, TimelineData]) -> list[TimelineEntry]:
    return [entry(seq, NOW, kind, data) for seq, (kind, data) in enumerate(happened)]


def end(reason: FailureReason, **fields: Any) -> tuple[str, EndData]:
    return "failed", EndData(failure_reason=reason, **fields)


CANCELLED = record(status=RunStatus.CANCELLED)
BY_ADA = ("cancel_requested", CancelRequestedData(by="ada", reason="no need"))


@pytest.mark.parametrize(
    ("run", "timeline", "words"),
    [
        (CANCELLED, entries(BY_ADA, ("cancelled", EndData(reason="cancel"))), "cancelled by ada: no need"),
        (
            CANCELLED,
            entries(BY_ADA, end(FailureReason.EXIT_CODE, exit_code=3, cancelled=True)),
            "cancelled by ada: no need",
        ),
        (CANCELLED, entries(BY_ADA, ("retry_requested", RetryRequestedData(attempt=2, by="local"))), "-"),
        (
            record(status=RunStatus.CANCELLED, failure_reason=FailureReason.DEPENDENCY_FAILED),
            entries(
                ("cancelled", EndData(failure_reason=FailureReason.DEPENDENCY_FAILED, dependency="k3f2q7"))
            ),
            "run k3f2q7 did not complete",
        ),
        (
            failed(FailureReason.EXIT_CODE, exit_code=3),
            entries(end(FailureReason.EXIT_CODE, exit_code=3)),
            "exit 3",
        ),
        (failed(FailureReason.SPAWN_ERROR), [], "could not be started"),
    ],
)
def test_why_a_run_ended_is_told_by_its_timeline_where_that_knows_more(
    run: QueuedRunRecord, timeline: list[TimelineEntry], words: str
) -> None:
    assert describe.why_ended(run, timeline) == words


def test_every_reason_has_words() -> None:
    assert all(describe.ending(failed(reason)) for reason in FailureReason)


def test_a_run_that_ends_between_the_two_questions_is_counted_once() -> None:
    raw = msgspec.Raw(b"{}")
    live = ls.Listing(5, False, {"a": (1, raw), "b": (2, raw)}, 7)
    ended = ls.Listing(6, False, {"b": (2, raw), "c": (3, raw)}, 20)
    assert ls._total(live, ended) == 26


def test_the_listing_is_aligned_and_never_cut_for_a_program() -> None:
    long_name = "n" * 80
    runs = [
        record(
            name=long_name,
            node="gpu01",
            slots=[0, 1],
            waited_s=12.0,
            dispatched_at="2026-11-24T09:00:12.000000Z",
            started_at="2026-11-24T09:00:12.500000Z",
            step=7,
        ),
        record("abcdef" + "b" * 20, status=RunStatus.PENDING, queued_at="2026-11-24T09:00:00.000000Z"),
    ]
    assert render(COLUMNS, rows(runs, NOW, whole_ids=True)) == [
        f"RUN                         {'NAME':80}  STATUS   WHERE      WAITED     RAN  LAST",
        f"k3f2q7aaaaaaaaaaaaaaaaaaaa  {long_name}  RUNNING  gpu01:0,1     12s  59m48s  step 7",
        f"abcdefbbbbbbbbbbbbbbbbbbbb  {'ppo':80}  PENDING  -              1h       -  -",
    ]


def test_a_terminal_gets_what_fits_its_width_and_colour() -> None:
    lines = render(
        [Column("A", shrink=4), Column("B", right=True)],
        [[Cell("abcdefghij", "green"), "1"], ["日本語日本", "22"]],
        Screen(10, colour=True),
    )
    assert lines == [
        "\x1b[1mA\x1b[0m        \x1b[1mB\x1b[0m",
        "\x1b[32mabcde…\x1b[0m   1",
        "日本…   22",
    ]
    assert all(text_width(line) <= 10 for line in lines[2:])


def test_a_name_cannot_write_to_the_terminal() -> None:
    assert clean("a\x1b[31mb\nc\u202e") == r"a\x1b[31mb\nc\u202e"
    (row,) = rows([record(name="x\x1b]0;owned\x07")], NOW, whole_ids=False)
    assert "\x1b" not in str(row[1])


def test_short_ids_are_as_long_as_it_takes_to_tell_them_apart() -> None:
    one, two = "abcdefgh" + "a" * 18, "abcdefgi" + "a" * 18
    assert shortest([one]) == {one: "abcdef"}
    assert shortest([one, two, one]) == {one: "abcdefgh", two: "abcdefgi"}


def test_numbers_read_well() -> None:
    assert [count(n) for n in (0, 1200, 9999, 12_345, 120_000, 1_500_000, 2.5)] == [
        "0",
        "1200",
        "9999",
        "12.3k",
        "120k",
        "1.5M",
        "2.5",
    ]
    assert [metric(n) for n in (195.21, 0.03125, 1e9)] == ["195.2", "0.03125", "1e+09"]


def test_memory_is_read_in_mb_or_with_its_unit() -> None:
    assert [parse_memory_mb(text, what="x") for text in ("2048", "2048M", "2G", "2GiB", "1t")] == [
        2048,
        2048,
        2048,
        2048,
        1024 * 1024,
    ]
    for text in ("", "2.5G", "-1", "2K"):
        with pytest.raises(TrainshedError, match="--memory"):
            parse_memory_mb(text, what="--memory")


def test_a_time_that_is_unknown_or_odd_gives_no_duration() -> None:
    assert seconds_between(None, NOW) is None
    assert seconds_between("soon", NOW) is None
    assert seconds_between("2026-11-24T09:59:58.500000Z", NOW) == 1.5


def test_a_slot_tells_who_else_uses_it() -> None:
    assert notes(SlotRecord(node="a", index=0)) == ""
    assert notes(SlotRecord(node="a", index=0, healthy=False, other_pids=[12, 13])) == (
        "unhealthy; also used by pid 12, 13"
    )
    busy = SlotRecord(node="a", index=0, healthy=False, unhealthy_reason="external", other_pids=[12])
    assert notes(busy) == "used by others: pid 12"
    assert notes(SlotRecord(node="a", index=0, healthy=False, unhealthy_reason="GPU is lost")) == (
        "unhealthy: GPU is lost"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KB"),
        (100 << 20, "100 MB"),
        ((1 << 30) - 1, "1024 MB"),
        (1843200 << 20, "1.8 TB"),
        (5000 << 40, "5000 TB"),
    ],
)
def test_a_size_is_told_in_its_largest_unit(size: int, text: str) -> None:
    assert format_bytes(size) == text
