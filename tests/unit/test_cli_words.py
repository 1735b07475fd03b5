"""Runs in words, tables in columns, and the exit codes that stand for them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from services.cli import cancel, describe, ls
from services.cli.listing import COLUMNS, rows
from services.cli.slots import notes
from services.cli.table import Cell, Column, Screen, render, text_width
from services.cli.text import (
    clean,
    count,
    day_or_time,
    format_bytes,
    metric,
    parse_memory_mb,
    seconds_between,
    short,
    shortest,
    time_of_day,
    zoned,
)
from tests.support.timeline import entry
from tests.support.times import at
from trainshed_client.answers import Acknowledged, RunView
from trainshed_client.errors import TrainshedError
from trainshed_client.records import QueuedRunRecord, SlotRecord, TimelineEntry, Wait, WaitsFor
from trainshed_client.rendering import waiting
from trainshed_client.rendering.timeline import (
    CancelRequestedData,
    EndData,
    RetryRequestedData,
    TimelineData,
)
from trainshed_client.statuses import CodeSeen, FailureReason, NodeStatus, RunStatus, WaitReason

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
    fields |= given
    times = {
        name: at(fields[name]) for name in fields if name.endswith("_at") and isinstance(fields[name], str)
    }
    return QueuedRunRecord(run_id=run_id, **{**fields, **times})


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
        (record(status=RunStatus.COMPLETED, progress=0.99, step=990), "step 990"),
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


@pytest.mark.usefixtures("zone")
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
        f"RUN                         {'NAME':80}  STATUS   WHERE      SINCE                             WAITED     RAN  LAST",
        f"k3f2q7aaaaaaaaaaaaaaaaaaaa  {long_name}  RUNNING  gpu01:0,1  2026-11-24T10:00:12.500000+01:00     12s  59m48s  step 7",
        f"abcdefbbbbbbbbbbbbbbbbbbbb  {'ppo':80}  PENDING  -          2026-11-24T10:00:00.000000+01:00      1h       -  -",
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


def test_where_a_terminal_is_too_narrow_what_is_extra_is_left_out_before_anything_is_cut_further() -> None:
    columns = [Column("A", extra=True), Column("B", shrink=4), Column("C", extra=True)]
    row = [["aaaa", "bbbbbbbb", "cccc"]]
    shown = {width: render(columns, row, Screen(width))[1] for width in (20, 16, 15, 14, 10, 9)}
    assert shown == {
        20: "aaaa  bbbbbbbb  cccc", 16: "aaaa  bbb…  cccc", 15: "bbbbbbbb  cccc", 14: "bbbbbbbb  cccc", 10: "bbb…  cccc",
        9: "bbbbbbbb",
    }  # fmt: skip
    assert render(columns, row) == ["A     B         C", "aaaa  bbbbbbbb  cccc"]


SINCE = {
    "queued_at": "2026-11-24T08:00:00.000000Z", "dispatched_at": "2026-11-24T08:00:01.000000Z",
    "started_at": "2026-11-24T08:00:02.000000Z", "ended_at": "2026-11-24T08:00:03.000000Z",
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "without", "since"),
    [
        (RunStatus.PENDING, (), "queued_at"),
        (RunStatus.PENDING, ("queued_at",), "submitted_at"),
        (RunStatus.DISPATCHING, ("started_at",), "dispatched_at"),
        (RunStatus.RUNNING, (), "started_at"),
        *(
            (status, (), "ended_at")
            for status in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)
        ),
    ],
)
def test_since_when_a_run_is_what_its_status_says(
    status: RunStatus, without: tuple[str, ...], since: str
) -> None:
    run = record(status=status, **{name: time for name, time in SINCE.items() if name not in without})
    assert describe.since(run) == getattr(run, since) is not None


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    ("time", "brief", "whole"),
    [
        ("2026-11-24T00:30:12.000000Z", "01:30", "2026-11-24 01:30:12"),
        ("2026-11-23T23:30:12.000000Z", "00:30", "2026-11-24 00:30:12"),
        ("2026-11-23T22:30:12.000000Z", "Nov 23", "2026-11-23 23:30:12"),
        ("2026-01-01T00:00:00.000000Z", "Jan 01", "2026-01-01 01:00:00"),
        ("2025-12-31T23:30:00.000000Z", "Jan 01", "2026-01-01 00:30:00"),
        ("2025-12-31T22:30:00.000000Z", "2025-12-31", "2025-12-31 23:30:00"),
        ("some day", "some day", "some day"),
    ],
)
def test_a_time_is_told_in_the_callers_zone(time: str, brief: str, whole: str) -> None:
    assert day_or_time(time, NOW) == brief
    assert time_of_day(time) == whole
    assert zoned("2026-11-23T23:30:12.000001Z") == "2026-11-24T00:30:12.000001+01:00"


LOST = {"status": RunStatus.RUNNING, "node": "gpu01", "node_status": NodeStatus.LOST, "progress": 0.5}
TIMED = {"started_at": "2026-11-24T09:00:00.000000Z", "last_heartbeat_at": "2026-11-24T09:30:00.000000Z"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "node lost; 50%"),
        ({"cancel_requested": True}, "node lost; stopping; 50%"),
        ({"node_status": NodeStatus.LEFT, "progress": None}, "node left"),
        ({"node_status": None, "cancel_requested": True}, "stopping; 50%, 0s left"),
    ],
)
def test_a_run_on_a_node_that_does_not_answer_says_so(given: dict[str, Any], words: str) -> None:
    assert describe.last(record(**{**LOST, **TIMED, **given}), NOW) == words


def test_all_that_a_worker_reported_is_told_the_metric_that_matters_first() -> None:
    run = record(
        step=120_000,
        max_steps=1_000_000,
        metrics={"entropy": 0.7, "reward": 195.21},
        status_text="warm",
        **TIMED,
    )
    assert (
        describe.reported_whole(run, NOW)
        == "step 120k of 1M, 12%, 3h10m left, reward 195.2, entropy 0.7, warm"
    )
    assert describe.reported_whole(record(step=7, metrics={"x": 1.0}), NOW) == "step 7, x 1"


@pytest.mark.parametrize(
    ("error", "gist"),
    [
        ("ModuleNotFoundError: No module named 'torch'", "No module named 'torch'"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to …", "CUDA out of memory. Tried to …"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'x'", "No such file or directory: 'x'"),
        ("/usr/bin/bash: line 1: torchrun: command not found", "torchrun: command not found"),
        ("sh: 1: nvcc: not found", "nvcc: not found"),
        ("KeyError: 'lr'", "KeyError: 'lr'"),
        ("/srv/bin/train: no such file", "train: no such file"),
        ("/srv/x is not there", "/srv/x is not there"),
        ("ZeroDivisionError: division by zero", "division by zero"),
        (
            "train.py: error: unrecognized arguments: --lr 3",
            "train.py: error: unrecognized arguments: --lr 3",
        ),
        ("no data", "no data"),
    ],
)
def test_of_an_error_there_may_be_room_for_its_sentence_alone(error: str, gist: str) -> None:
    assert describe.gist(error) == gist
    run = failed(FailureReason.EXIT_CODE, exit_code=1, error=error, code=CodeSeen.CHANGED)
    assert describe.last_of_all(run, NOW, brief=True) == f"code changed; exit 1: {gist}"
    assert describe.last_of_all(run, NOW) == f"code changed; exit 1: {error}"


def test_a_worker_that_could_not_be_started_is_so_in_few_letters_too() -> None:
    run = failed(FailureReason.SPAWN_ERROR, error="/srv/bin/train: no such file")
    assert describe.last_of_all(run, NOW) == "could not be started: /srv/bin/train: no such file"
    assert describe.last_of_all(run, NOW, brief=True) == "not started: train: no such file"


def test_a_metric_is_called_by_its_last_part_where_room_is_scarce() -> None:
    run = record(
        progress=0.5, primary_metric="rollout/ep_rew_mean", metrics={"loss": 1.0, "rollout/ep_rew_mean": 2.5}
    )
    assert describe.last_of_all(run, NOW) == "50% rollout/ep_rew_mean 2.5"
    assert describe.last_of_all(run, NOW, brief=True) == "50% ep_rew_mean 2.5"


def test_a_cell_is_in_brief_where_the_whole_does_not_fit() -> None:
    column = [Column("A", shrink=4)]
    cell = Cell("12% reward 195.2, 7h17m left", brief="12% reward 195.2")
    assert [render(column, [[cell]], Screen(width))[1] for width in (28, 27, 16, 15)] == [
        "12% reward 195.2, 7h17m left", "12% reward 195.2", "12% reward 195.2", "12% reward 195…",
    ]  # fmt: skip
    assert render(column, [[cell]])[1] == cell.text


def cancel_of(status: RunStatus, **given: Any) -> tuple[str, str | None]:
    run = record(**{"status": status, **given})
    config = {"stop": {"signal": "SIGINT", "grace_s": 90}} if given.get("labels") else {}
    view = RunView(seq=5, run=run, config=config, attempts=[], timeline=[])
    return cancel.after_cancel(Acknowledged(run_id=run.run_id, status=status, seq=5), view, NOW)


def test_cancel_says_what_it_did() -> None:
    done, remark = cancel_of(RunStatus.RUNNING, node="gpu01")
    assert done == "told to stop: SIGTERM, then SIGKILL after 5s"
    assert remark == "k3f2q7 keeps its slots until all its processes are gone; to wait: trainshed wait k3f2q7"
    assert (
        cancel_of(RunStatus.RUNNING, node="gpu01", labels={"a": "b"})[0]
        == "told to stop: SIGINT, then SIGKILL after 1m30s"
    )
    assert cancel_of(RunStatus.PENDING) == ("cancelled: it was queued, and does not start", None)
    done, remark = cancel_of(RunStatus.RUNNING, node="gpu01", node_status=NodeStatus.LOST)
    assert done == "to be stopped once its node answers"
    assert remark is not None and "trainshed node remove gpu01" in remark
    ended = {"ended_at": "2026-11-24T09:57:00.000000Z"}
    assert cancel_of(RunStatus.COMPLETED, **ended) == ("had ended already (COMPLETED, 3 min ago)", None)
    failure = {**ended, "failure_reason": FailureReason.EXIT_CODE, "exit_code": 1, "error": "KeyError: 'lr'"}
    assert cancel_of(RunStatus.FAILED, **failure) == (
        "had ended already (FAILED, 3 min ago): exit 1: KeyError: 'lr'",
        None,
    )


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
    for text in ("", "2.5G", "-1", "2K", "9" * 5000):
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
