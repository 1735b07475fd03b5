"""What the screens look like, at 80 and 120 columns and for a program: one readable file each in tests/golden.

``pytest tests/unit/test_screens.py --rewrite-golden`` writes them anew.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import pytest

from services.cli import audit_at, audit_diff, explain, ls, nodes, show, slots
from services.cli.as_of import PastMoment
from services.cli.changes import SentRecord, changes, of_node, of_run, of_slot
from services.cli.live import live_table, table
from services.cli.main import cli
from services.cli.output_tail import OutputTail
from services.cli.table import PLAIN, Screen, text_width
from services.cli.text import seconds_between
from tests.support.timeline import entry
from trainshed_client.answers import (
    Explanation,
    Holder,
    NodePage,
    Reserved,
    RunFolder,
    RunView,
    SlotPage,
    SuspectNode,
    Waiting,
)
from trainshed_client.records import (
    AttemptRecord,
    AttemptUsage,
    ListedSlotRecord,
    NodeRecord,
    QueuedRunRecord,
    TimelineEntry,
    Wait,
    WaitsFor,
    WitnessObjection,
)
from trainshed_client.rendering.timeline import (
    CancelRequestedData,
    DispatchedData,
    EndData,
    NextAttempt,
    StartedData,
    SubmittedData,
    TimelineData,
)
from trainshed_client.rendering.waiting import text
from trainshed_client.statuses import CodeSeen, FailureReason, NodeStatus, RunStatus, WaitReason
from trainshed_client.times import utc_text

pytestmark = pytest.mark.usefixtures("zone")
GOLDEN = Path(__file__).parents[1] / "golden"
NOW = "2026-11-24T10:00:00.000000Z"
TRAIN = ["/home/ada/venv/bin/python3", "train.py", "--env", "CartPole-v1", "--lr", "3e-4", "--seed", "7"]


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-24T{clock}.123456Z")


def waits(wait: Wait) -> dict[str, Any]:
    """What a record bears of it."""
    return {"waiting": wait, "waits_for": WaitsFor(reason=wait.reason, text=text(wait))}


def run(run_id: str, status: RunStatus, number: int, **given: Any) -> QueuedRunRecord:
    fields: dict[str, Any] = {
        "name": "ppo-cartpole",
        "attempt": 1,
        "digest": "0" * 64,
        "seq": 100 + number,
        "submit_seq": number,
        "priority": 0,
        "labels": {},
        "gpus": 1,
        "submitted_by": "local",
        "submitted_at": at("09:00:00"),
    }
    fields |= given
    if status is RunStatus.PENDING:
        fields.setdefault("queued_at", fields["submitted_at"])
    else:
        left_queue = fields.get("dispatched_at") or fields["ended_at"]
        fields.setdefault("waited_s", seconds_between(fields["submitted_at"], left_queue))
        fields.setdefault("duration_s", seconds_between(fields.get("started_at"), fields.get("ended_at")))
    return QueuedRunRecord(run_id=run_id.ljust(26, "a"), status=status, **fields)


STARTED = {
    "dispatched_at": at("09:00:12"),
    "started_at": at("09:00:12"),
    "node": "gpu01",
    "host": "gpu01.lab",
}
ERROR = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB."
LIVE = run(
    "k3f2q7",
    RunStatus.RUNNING,
    9,
    slots=[0, 1],
    gpus=2,
    pid=41523,
    step=120_000,
    max_steps=1_000_000,
    metrics={"entropy": 0.7, "reward": 195.21},
    last_heartbeat_at=at("09:59:50"),
    command=[*TRAIN, "--total-steps", "1000000"],
    labels={"sweep": "a", "who": "ada"},
    priority=5,
    **STARTED,
)
WAITING = run(
    "x7ab2c",
    RunStatus.PENDING,
    8,
    name="python3",
    command=TRAIN,
    **waits(Wait(reason=WaitReason.GPUS, numbers={"gpus": 2, "free": 2, "total": 4})),
)
AGAIN = run(
    "mz6w3e",
    RunStatus.PENDING,
    7,
    attempt=2,
    name="sac-humanoid-with-a-name-that-goes-on-for-longer-than-there-is-room",
    **waits(Wait(reason=WaitReason.BACKOFF, numbers={"seconds": 30})),
)
DONE = run(
    "c5tq2k", RunStatus.COMPLETED, 6, exit_code=0, slots=[1], step=1_000_000, metrics={"reward": 500.0},
    ended_at=at("09:48:30"), code=CodeSeen.CHANGED, **STARTED,
)  # fmt: skip
FAILED = run(
    "p2n4vd", RunStatus.FAILED, 5, name="train.sh", command=["/home/ada/train.sh"], exit_code=3,
    failure_reason=FailureReason.EXIT_CODE, error=ERROR, slots=[0], attempt=2, ended_at=at("09:03:32"), code=CodeSeen.SAME,
    memory_enforced=True, usage=AttemptUsage(cpu_s=431.5, memory_peak_mb=2_900, gpu_busy_s=100.0, gpu_memory_peak_mb=23_900), **STARTED,
)  # fmt: skip
KILLED = run(
    "q6rr5h", RunStatus.FAILED, 4, signal=9, failure_reason=FailureReason.SIGNAL, ended_at=at("09:00:15"),
    **STARTED,
)  # fmt: skip
SILENT = run(
    "d3jw7y", RunStatus.FAILED, 3, signal=15, failure_reason=FailureReason.WORKER_TIMEOUT, name="日本語の名前",
    last_heartbeat_at=at("09:10:00"), ended_at=at("09:15:05"), **STARTED,
)  # fmt: skip
STOPPED = run("f4ke6s", RunStatus.CANCELLED, 2, ended_at=at("09:01:00"))
AFTER_LIVE = Wait(reason=WaitReason.DEPENDENCY, numbers={"runs": 1}, runs=[LIVE.run_id])
NEXT = run(
    "h7turn", RunStatus.PENDING, 10, **waits(Wait(reason=WaitReason.GPUS, numbers={"gpus": 2, "free": 1, "total": 2}))
)  # fmt: skip
CHAINED = run(
    "n5late", RunStatus.PENDING, 11, **waits(AFTER_LIVE)
)  # fmt: skip
BROKEN = run(
    "w2bad6", RunStatus.FAILED, 12, waited_s=13.0, failure_reason=FailureReason.SPAWN_ERROR, error="working_dir /x: no such folder", node="gpu01", ended_at=at("09:00:13"),
)  # fmt: skip
CUT_OFF = run(
    "v8lost", RunStatus.RUNNING, 13, name="finetune", slots=[0], node_status=NodeStatus.LOST, step=400, progress=0.4,
    metrics={"eval/loss": 0.5}, last_heartbeat_at=at("09:12:00"), **{**STARTED, "node": "gpu03", "started_at": datetime.fromisoformat("2026-11-23T09:00:12.123456Z")},
)  # fmt: skip
EVERY = [CUT_OFF, BROKEN, CHAINED, NEXT, LIVE, WAITING, AGAIN, DONE, FAILED, KILLED, SILENT, STOPPED]


def attempt(number: int, status: RunStatus, **given: Any) -> AttemptRecord:
    duration_s = seconds_between(given["started_at"], given["ended_at"])
    return AttemptRecord(
        run_id=FAILED.run_id,
        attempt=number,
        status=status,
        node="gpu01",
        slots=[0],
        duration_s=duration_s,
        **given,
    )


def happened(*entries: tuple[int, str, str, TimelineData]) -> list[TimelineEntry]:
    return [entry(seq, utc_text(at(clock)), kind, data) for seq, clock, kind, data in entries]


def exit_3(next: NextAttempt | None = None) -> EndData:
    return EndData(failure_reason=FailureReason.EXIT_CODE, exit_code=3, next=next)


FAILED_VIEW = RunView(
    seq=120,
    run=FAILED,
    config={"entry_point": "/home/ada/train.sh", "resources": {"memory_mb": 4096, "gpus": {"requested": 1}}, "retry": {"max_attempts": 2}, "code": {"sha256": "3f2a91c4" * 8}},
    attempts=[
        attempt(
            1, RunStatus.FAILED, exit_code=3, failure_reason=FailureReason.EXIT_CODE, step=1200,
            started_at=at("09:00:12"), ended_at=at("09:01:12"), late_result="COMPLETED", code=CodeSeen.CHANGED,
        ),
        attempt(
            2, RunStatus.FAILED, exit_code=3, failure_reason=FailureReason.EXIT_CODE, error=ERROR,
            started_at=at("09:01:30"), ended_at=at("09:03:32"), code=CodeSeen.SAME,
        ),
    ],
    timeline=happened(
        (5, "09:00:00", "submitted", SubmittedData(by="local", caller_path="/home/ada/rl/.venv/bin:/usr/bin:/bin", commit="9d31e0b2" * 5, dirty=True, folder="/home/ada/rl")),
        (20, "09:00:12", "dispatched", DispatchedData(node="gpu01", slots=(0,))),
        (21, "09:00:12", "started", StartedData(host="gpu01.lab", pid=41001)),
        (60, "09:01:12", "failed", exit_3(next=NextAttempt(attempt=2, wait_s=10))),
        (61, "09:01:30", "dispatched", DispatchedData(node="gpu01", slots=(0,))),
        (62, "09:01:30", "started", StartedData(host="gpu01.lab", pid=41377)),
        (105, "09:03:32", "failed", exit_3()),
    ),
)  # fmt: skip
LEFT = RunFolder(
    node="gpu01", host="gpu01.lab", folder=f"/data/runs/{FAILED.run_id}", exists=True, output=f"/data/runs/{FAILED.run_id}/attempts/2",
    output_bytes={"stdout": 1_204_113, "stderr": 512}, artifacts=3, artifacts_bytes=48_000_000,
)  # fmt: skip
AWAY = "not known: the agent of gpu01 does not answer. See how it is: trainshed nodes"
STOPPED_VIEW = RunView(
    seq=120, run=STOPPED, config={}, attempts=[],
    timeline=happened(
        (2, "09:00:00", "submitted", SubmittedData(by="local")),
        (101, "09:00:59", "cancel_requested", CancelRequestedData(by="local", reason="no need")),
        (102, "09:01:00", "cancelled", EndData(reason="cancel")),
    ),
)  # fmt: skip
BROKEN_VIEW = RunView(
    seq=120, run=BROKEN, config={}, attempts=[],
    timeline=happened(
        (12, "09:00:00", "submitted", SubmittedData(by="local")),
        (112, "09:00:13", "failed", EndData(failure_reason=FailureReason.SPAWN_ERROR, message="working_dir /x: no such folder")),
    ),
)  # fmt: skip
WORDS = OutputTail(
    "stderr",
    [
        "Traceback (most recent call last):",
        '  File "/home/ada/train.py", line 41, in <module>',
        "    main()",
        ERROR,
    ],
)
LIVE_VIEW = RunView(
    seq=120,
    run=LIVE,
    config={
        "entry_point": TRAIN[0],
        "arguments": TRAIN[1:],
        "priority": 5,
        "labels": {"sweep": "a", "who": "ada"},
    },
    attempts=[],
    timeline=happened(
        (9, "09:00:00", "submitted", SubmittedData(by="local")),
        (10, "09:00:12", "started", StartedData(host="gpu01.lab", pid=41523, threads=16)),
    ),
)
WAITING_VIEW = RunView(seq=120, run=WAITING, config={}, attempts=[], timeline=[])
HOLDERS = [
    Holder(
        run_id=LIVE.run_id, name=LIVE.name, node="gpu01", slots=[0, 1], cpus=8, since=at("09:00:12"),
        ends_by=at("11:00:13"),
    ),
    Holder(run_id=DONE.run_id, name=AGAIN.name, node="gpu02", slots=[1], cpus=1, since=at("09:59:00")),
]  # fmt: skip
WAITS = Waiting(
    reason=WaitReason.GPUS, text="waiting for 2 free GPUs on one node (2 of 4 free on several)", place=1, of=12,
    reservation=Reserved(run_id=WAITING.run_id, name="python3", node="gpu01", starts_by=at("11:00:13")),
    holders=HOLDERS, holders_total=52, commands=["trainshed resume gpu04"],
)  # fmt: skip
BEHIND = Waiting(
    reason=WaitReason.RESERVATION,
    text="gpu01 has room, but keeps it for run p2n4vd, which comes first; this one has no time limit to be over before that",
    place=3, of=1_012, reservation=Reserved(run_id=FAILED.run_id, name="train.sh", node="gpu01", starts_by=at("11:00:13")),
    holders=HOLDERS[:1], holders_total=1,
)  # fmt: skip
AFTER = Waiting(
    reason=WaitReason.DEPENDENCY,
    text=f"waiting for run {LIVE.run_id}",
    of=12,
    commands=["trainshed explain k3f2q7"],
)
SUSPECT = Waiting(
    reason=WaitReason.SUSPECT, text="gpu04 starts no run at present; one is tried there in 42 s", place=1, of=12,
    suspects=[
        SuspectNode(
            node="gpu04", since=at("09:56:30"), why="the run's folder cannot be made: no space left on device",
            probe_at=at("10:00:42"),
        )
    ],
    avoids=["gpu02"], commands=["trainshed resume gpu04", "trainshed nodes"],
)  # fmt: skip
SLOTS = SlotPage(
    seq=120,
    slots=[
        ListedSlotRecord(
            node="gpu01", index=0, uuid="GPU-1", device="NVIDIA GeForce RTX 4090", memory_mb=24564,
            memory_used_mb=8112, utilisation=97, run_id=LIVE.run_id, attempt=1, run_name=LIVE.name,
        ),
        ListedSlotRecord(
            node="gpu01", index=1, uuid="GPU-2", device="NVIDIA GeForce RTX 4090", memory_mb=24564,
            memory_used_mb=310, utilisation=0, other_pids=[2231, 2240],
        ),
        ListedSlotRecord(node="gpu02", index=0, device="Tesla T4", healthy=False),
        ListedSlotRecord(node="gpu02", index=1),
    ],
)  # fmt: skip
A100 = ListedSlotRecord(
    node="gpu05", index=0, gpu=0, uuid="GPU-5", device="NVIDIA A100-SXM4-40GB", memory_mb=40960, memory_used_mb=9216,
    utilisation=88,
)  # fmt: skip
SHARED_SLOTS = SlotPage(
    seq=120,
    slots=[
        msgspec.structs.replace(A100, run_id=LIVE.run_id, attempt=1, attempt_memory_mb=6144, run_name="python3 train.py --env CartPole-v1 --lr 3e-4 --seed 7"),
        msgspec.structs.replace(A100, index=1, run_id=FAILED.run_id, attempt=2, attempt_memory_mb=3072, run_name="train.sh"),
        msgspec.structs.replace(
            A100, index=2, gpu=1, uuid="GPU-6", memory_used_mb=20480, other_pids=[2231], healthy=False,
            unhealthy_reason="external",
        ),
        ListedSlotRecord(node="gpu06", index=0, gpu=0),
    ],
)  # fmt: skip
NODES = NodePage(
    seq=120,
    nodes=[
        NodeRecord(
            node="gpu01", host="gpu01.lab.example.org", incarnation="i", status=NodeStatus.UP, cpus=32, gpus=2,
            memory_mb=128_000, cpus_used=4, memory_used_mb=16_000, slots_used=1, last_heartbeat_at=at("09:59:56"),
            disk_free_mb=1_843_200, memory_enforced=True,
        ),
        NodeRecord(
            node="gpu02", host="gpu02.lab.example.org", incarnation="i", status=NodeStatus.UP, drained=True,
            cpus=16, gpus=2, memory_mb=64_000, last_heartbeat_at=at("09:59:58"), disk_free_mb=812, memory_enforced=False,
        ),
        NodeRecord(
            node="gpu03", host="gpu03.lab.example.org", incarnation="i", status=NodeStatus.LOST, cpus=16, gpus=4,
            memory_mb=64_000, last_heartbeat_at=at("09:12:00"),
        ),
        NodeRecord(
            node="gpu04", host="gpu04.lab.example.org", incarnation="i", status=NodeStatus.UP, cpus=16, gpus=4,
            memory_mb=64_000, last_heartbeat_at=at("09:59:59"), disk_free_mb=0, suspect_since=at("09:56:30"),
            suspect_reason="the run's folder cannot be made: no space left on device",
        ),
    ],
)  # fmt: skip
WITNESSES = NodePage(
    seq=1300,
    nodes=[
        msgspec.structs.replace(NODES.nodes[0], witness="k", witnessed_size=1234),
        msgspec.structs.replace(
            NODES.nodes[1], witness="k", witnessed_size=1180,
            witness_objection=WitnessObjection(
                kind="rolled_back", kept_size=1180, size=977, since=at("09:41:07"),
                text="the log has 977 events, this node has seen 1,180",
            ),
        ),
        NODES.nodes[2],
    ],
)  # fmt: skip
SHARED_NODES = NodePage(
    seq=120, nodes=[msgspec.structs.replace(NODES.nodes[0], slots_total=8, slots_used=3), NODES.nodes[1]]
)

NO_REPORT: dict[str, Any] = {"step": None, "progress": None, "metrics": {}, "last_heartbeat_at": None}
LIVE_THEN = msgspec.structs.replace(LIVE, **NO_REPORT)
SLOTS_THEN = SlotPage(
    seq=120,
    slots=[
        msgspec.structs.replace(one, memory_used_mb=None, utilisation=None, other_pids=[])
        for one in SLOTS.slots
    ],
)
NODES_THEN = NodePage(
    seq=120,
    nodes=[msgspec.structs.replace(one, last_heartbeat_at=None, disk_free_mb=None) for one in NODES.nodes],
)
THEN = PastMoment(120, utc_text(at("09:50:02")), "5f" * 32, utc_text(at("10:00:00")))
PAST = audit_at.PastState(
    THEN,
    [msgspec.Raw(msgspec.json.encode(one)) for one in (LIVE_THEN, WAITING, AGAIN)],
    msgspec.json.encode(SLOTS_THEN),
    msgspec.json.encode(NODES_THEN),
)
T = TypeVar("T")


def seen(**records: T) -> dict[str, SentRecord[T]]:
    return {name: SentRecord(msgspec.Raw(b"{}"), record) for name, record in records.items()}


QUEUED = run("k3f2q7", RunStatus.PENDING, 9)
FREE = msgspec.structs.replace(SLOTS_THEN.slots[0], run_id=None, attempt=None, run_name=None)
RUNS = [
    (None, DONE),
    (QUEUED, LIVE_THEN),
    (run("c4w7nf", RunStatus.RUNNING, 5, **STARTED), FAILED),
    (run("mz6w3e", RunStatus.RUNNING, 7, **STARTED), AGAIN),
    (None, WAITING),
]
DIFF = audit_diff.Diff(
    PastMoment(90, utc_text(at("09:10:00")), "3c" * 32, utc_text(at("09:10:00"))),
    THEN,
    [
        one
        for was, now in RUNS
        for one in changes(seen(run=was) if was is not None else {}, seen(run=now), of_run)
    ],
    list(
        changes(
            seen(a=FREE, b=SLOTS_THEN.slots[0], c=msgspec.structs.replace(SLOTS_THEN.slots[2], healthy=True)),
            seen(a=SLOTS_THEN.slots[0], b=FREE, c=SLOTS_THEN.slots[2], d=SLOTS_THEN.slots[3]),
            of_slot,
        )
    ),
    list(
        changes(
            seen(
                a=NODES.nodes[0],
                b=msgspec.structs.replace(NODES.nodes[1], drained=False),
                c=msgspec.structs.replace(NODES.nodes[2], status=NodeStatus.UP),
            ),
            seen(b=NODES.nodes[1], c=NODES.nodes[2], d=NODES.nodes[3]),
            of_node,
        )
    ),
)

Lines = Callable[[Screen], list[str]]
SCREENS: dict[str, Lines] = {
    "ls": lambda screen: [*ls.lines(EVERY, NOW, screen), str(ls.rest(9_957, ls.ListOptions()))],
    "show-failed": lambda screen: show.lines(FAILED_VIEW, LEFT, WORDS, NOW, screen),
    "show-running": lambda screen: show.lines(LIVE_VIEW, AWAY, None, NOW, screen),
    "show-waiting": lambda screen: show.lines(WAITING_VIEW, None, None, NOW, screen),
    "show-cancelled": lambda screen: show.lines(STOPPED_VIEW, None, None, NOW, screen),
    "show-not-started": lambda screen: show.lines(BROKEN_VIEW, None, None, NOW, screen),
    "slots": lambda screen: slots.lines(SLOTS, screen),
    "slots-shared": lambda screen: slots.lines(SHARED_SLOTS, screen),
    "nodes": lambda screen: [*nodes.lines(NODES, NOW, screen), *nodes.memory_limits(NODES)],
    "nodes-witnesses": lambda screen: [
        *nodes.lines(WITNESSES, NOW, screen),
        *nodes.objections(WITNESSES),
    ],
    "nodes-shared": lambda screen: nodes.lines(SHARED_NODES, NOW, screen),
    "explain-waiting": lambda screen: explain.lines(
        Explanation(seq=120, run=WAITING, waiting=WAITS), NOW, screen
    ),
    "explain-behind": lambda screen: explain.lines(
        Explanation(seq=120, run=WAITING, waiting=BEHIND), NOW, screen
    ),
    "explain-suspect": lambda screen: explain.lines(
        Explanation(seq=120, run=WAITING, waiting=SUSPECT), NOW, screen
    ),
    "explain-after": lambda screen: explain.lines(
        Explanation(seq=120, run=WAITING, waiting=AFTER), NOW, screen
    ),
    "explain-failed": lambda screen: explain.lines(
        Explanation(seq=120, run=FAILED, timeline=FAILED_VIEW.timeline[-3:]), NOW, screen
    ),
    "explain-cancelled": lambda screen: explain.lines(
        Explanation(seq=120, run=STOPPED, timeline=STOPPED_VIEW.timeline), NOW, screen
    ),
    "explain-not-started": lambda screen: explain.lines(
        Explanation(seq=120, run=BROKEN, timeline=BROKEN_VIEW.timeline), NOW, screen
    ),
    "explain-lost": lambda screen: explain.lines(Explanation(seq=120, run=CUT_OFF), NOW, screen),
    "explain-then": lambda screen: explain.lines(
        Explanation(seq=120, run=WAITING, waiting=WAITS), NOW, screen, then="120"
    ),
    "audit-at": lambda screen: list(audit_at.lines(PAST, screen)),
    "audit-diff": lambda screen: list(audit_diff.lines(DIFF, screen)),
    "help": lambda screen: _help([], screen),
    "help-submit": lambda screen: _help(["submit"], screen),
    "help-logs": lambda screen: _help(["logs"], screen),
    "help-audit-at": lambda screen: _help(["audit", "at"], screen),
    "help-audit-diff": lambda screen: _help(["audit", "diff"], screen),
}
TABLES = ("ls", "slots", "nodes")


def _help(words: list[str], screen: Screen) -> list[str]:
    command: click.Command = cli
    settings = {"terminal_width": screen.width or 80, "help_option_names": ["-h", "--help"]}
    context = click.Context(cli, info_name="trainshed", **settings)  # type: ignore[arg-type]
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=word, **settings)  # type: ignore[arg-type]
    return command.get_help(context).splitlines()


def compare(path: Path, lines: list[str], rewrite: bool) -> None:
    text = "".join(f"{line}\n" for line in lines)
    if rewrite:
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} has changed; look at it with --rewrite-golden"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_looks_as_in_its_golden_file(name: str, width: int, pytestconfig: pytest.Config) -> None:
    lines = SCREENS[name](Screen(width))
    compare(GOLDEN / f"{name}.{width}.txt", lines, pytestconfig.getoption("--rewrite-golden"))


@pytest.mark.parametrize("name", [name for name in SCREENS if not name.startswith("help")])
def test_for_a_program_a_screen_looks_as_in_its_golden_file(name: str, pytestconfig: pytest.Config) -> None:
    lines = SCREENS[name](PLAIN)
    assert not any("…" in line or "\x1b" in line for line in lines)
    compare(GOLDEN / f"{name}.piped.txt", lines, pytestconfig.getoption("--rewrite-golden"))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_fits_its_terminal(name: str, width: int) -> None:
    assert max(text_width(line) for line in SCREENS[name](Screen(width))) <= width


@pytest.mark.parametrize("name", [name for name in SCREENS if not name.startswith("help")])
def test_colour_is_all_that_colour_changes(name: str) -> None:
    coloured = SCREENS[name](Screen(80, colour=True))
    assert any("\x1b[" in line for line in coloured)
    assert [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in coloured] == SCREENS[name](Screen(80))


def test_every_golden_file_is_some_screens() -> None:
    names = {f"{name}.{kind}.txt" for name in SCREENS for kind in ("80", "120", "piped")}
    assert {path.name for path in GOLDEN.iterdir()} <= names


@pytest.mark.parametrize("colour", [True, False])
def test_with_no_color_the_live_table_has_neither_colour_nor_bold(
    colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    with live_table([LIVE.run_id]) as show_record:
        show_record(LIVE)
    drawn = terminal.getvalue()
    assert "k3f2q7" in drawn
    assert bool(re.search(r"\x1b\[[\d;]*m", drawn)) is colour
    assert drawn.startswith("\x1b[?25l") and drawn.endswith("\x1b[3A\x1b[J\x1b[?25h")


def test_the_live_table_shows_who_runs_where_not_all_have_room() -> None:
    ended = msgspec.structs.replace(LIVE, status=RunStatus.COMPLETED)
    lines = table([ended, ended, ended, LIVE], 5, Screen(80), 7)
    assert [line.split()[2] for line in lines[1:-1]] == ["RUNNING", "COMPLETED", "COMPLETED"]
    assert lines[-1] == "3 of 5 ended, 1 not shown"


def test_on_a_terminal_an_id_is_as_short_as_it_can_be_and_for_a_program_whole() -> None:
    assert ls.lines([LIVE], NOW, Screen(120))[1].startswith("k3f2q7  ")
    assert ls.lines([LIVE], NOW, PLAIN)[1].startswith(f"{LIVE.run_id}  ")
    held = SlotPage(seq=1, slots=SLOTS.slots[:1])
    assert "  k3f2q7.1" in slots.lines(held, Screen(120))[1]
    assert f"  {LIVE.run_id}.1" in slots.lines(held, PLAIN)[1]


def test_show_tells_nothing_three_times() -> None:
    page = "\n".join(show.lines(FAILED_VIEW, LEFT, WORDS, NOW, Screen(None)))
    for told in (ERROR, FAILED.command[0], "4096", "3f2a91c43f", "2.8 GB", LEFT.folder, "no need"):
        assert page.count(told) <= 2, told
