"""The tables of runs, slots, nodes, the queue and metrics: what they show, and that they change row by row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from PySide6.QtCore import QAbstractItemModel, Qt

from tests.support.gui import RUN, run_record
from trainshed_client.metrics import MetricsPoint
from trainshed_client.qt import (
    MetricsModel,
    NodesModel,
    QueueModel,
    RecordTable,
    RunsModel,
    SlotsModel,
    SortedTable,
    TableRole,
)
from trainshed_client.records import NodeRecord, QueuePlace, QueueRecord, SlotRecord, Wait
from trainshed_client.statuses import FailureReason, NodeStatus, RunStatus, WaitReason

Watch = Callable[[QAbstractItemModel], None]
T0 = datetime(2026, 5, 3, 14, 3, 7, tzinfo=UTC)


def shown(model: QAbstractItemModel, role: int = Qt.ItemDataRole.DisplayRole) -> list[dict[str, Any]]:
    """Each row as a dict of column titles."""
    columns = range(model.columnCount())
    titles = [model.headerData(column, Qt.Orientation.Horizontal) for column in columns]
    return [
        {title: model.index(row, column).data(role) for title, column in zip(titles, columns, strict=True)}
        for row in range(model.rowCount())
    ]


def changes(model: RecordTable) -> list[tuple[int, int]]:
    """The rows of each change from now on."""
    seen: list[tuple[int, int]] = []
    model.dataChanged.connect(lambda first, last: seen.append((first.row(), last.row())))
    model.modelReset.connect(lambda: seen.append((-1, -1)))
    return seen


def test_a_run_as_its_row(watched_model: Watch) -> None:
    model = RunsModel()
    watched_model(model)
    model.take(
        run_record(
            status=RunStatus.FAILED,
            step=12_000,
            progress=0.5,
            metrics={"loss": 1 / 3, "reward": 200.0},
            node="gpu01",
            slots=[0, 3],
            duration_s=90.0,
            failure_reason=FailureReason.EXIT_CODE,
            error="ValueError: no",
        )
    )
    assert model.rowCount() == 0
    model.apply()
    (row,) = shown(model)
    assert row["Status"] == "failed"
    assert (row["Step"], row["Progress"], row["Metric"]) == ("12,000", "50%", "reward 200")
    assert (row["Place"], row["Took"], row["Why"]) == ("gpu01 0,3", "1m30s", "exit code · ValueError: no")
    (raw,) = shown(model, TableRole.SORT)
    assert (raw["Step"], raw["Progress"], raw["Took"]) == (12_000, 0.5, 90.0)
    assert model.index(0, 0).data(TableRole.RECORD) == model.record(RUN)
    assert model.index(0, 0).data(TableRole.KEY) == RUN


def test_only_rows_that_changed_change(watched_model: Watch) -> None:
    model = RunsModel()
    watched_model(model)
    for number in range(6):
        model.take(run_record(f"run{number}"))
    model.apply()
    seen = changes(model)
    for number in (4, 1, 2):
        model.take(run_record(f"run{number}", step=1))
    model.take(run_record("run9"))
    model.apply()
    assert seen == [(1, 2), (4, 4)]
    assert model.rowCount() == 7


def test_slots_and_nodes(watched_model: Watch) -> None:
    slots, nodes = SlotsModel(), NodesModel()
    watched_model(slots)
    watched_model(nodes)
    slots.take(
        SlotRecord(node="box", index=1, run_id=RUN, utilisation=93, memory_mb=81_920, memory_used_mb=1024)
    )
    slots.take(SlotRecord(node="box", index=0, healthy=False, unhealthy_reason="Xid 79"))
    slots.apply()
    assert [row["State"] for row in shown(slots)] == ["held", "unhealthy: Xid 79"]
    assert shown(slots)[0]["Memory"] == "1.0 of 80 GiB"
    nodes.take(
        NodeRecord(
            node="box",
            host="box.lab",
            incarnation="i",
            status=NodeStatus.UP,
            drained=True,
            cpus=8,
            cpus_used=2,
            last_heartbeat_at=T0,
        )
    )
    nodes.apply()
    (row,) = shown(nodes)
    assert (row["State"], row["CPUs"]) == ("drained", "2 of 8")
    assert shown(nodes, TableRole.SORT)[0]["Last heard"] == T0.timestamp()


def place(run_id: str, number: int | None) -> QueuePlace:
    return QueuePlace(run_id=run_id, place=number, waiting=Wait(reason=WaitReason.TURN))


def queue_of(*runs: QueuePlace) -> QueueRecord:
    return QueueRecord(seq=1, at=T0, total=len(runs), runs=list(runs))


def test_the_queue_as_rows_that_come_and_go(watched_model: Watch) -> None:
    model = QueueModel()
    table = SortedTable(model, update_ms=0)
    watched_model(model)
    watched_model(table)
    totals: list[int] = []
    model.total_changed.connect(totals.append)
    model.take_queue(queue_of(place("a", 1), place("b", 2), place("c", None)))
    model.take_run(run_record("b", name="ppo"))
    model.apply()
    assert [row["Run"] for row in shown(table)] == ["a", "ppo", "c"]
    assert shown(table)[0]["Waits for"] == "waiting for its turn"
    seen = changes(model)
    model.take_queue(queue_of(place("c", 1), place("b", 2), place("d", 3)))
    model.apply()
    table.update()
    assert [(row["#"], row["Run"]) for row in shown(table)] == [("1", "c"), ("2", "ppo"), ("3", "d")]
    assert totals == [3]
    assert len(seen) == 1  # only c has another place
    model.take_run(run_record("b", name="ppo", status=RunStatus.RUNNING))
    model.take_queue(queue_of())
    model.apply()
    assert shown(table) == []


def point(attempt: int, seconds: int, step: float | None, **metrics: float) -> MetricsPoint:
    return MetricsPoint(attempt, T0 + timedelta(seconds=seconds), step, None, metrics)


def test_metrics_are_joined_by_step(watched_model: Watch) -> None:
    model = MetricsModel(RUN)
    table = SortedTable(model, update_ms=0)
    watched_model(model)
    watched_model(table)
    for one in (point(1, 0, 1, reward=1.0), point(1, 1, 1, loss=0.5), point(1, 2, 2, reward=2.0)):
        model.take(one)
    model.apply()
    assert model.metric_names == ["reward", "loss"]
    assert [(row["Step"], row["reward"], row["loss"]) for row in shown(table)] == [
        ("1", "1", "0.5"),
        ("2", "2", ""),
    ]
    for one in (point(2, 10, 2, reward=9.0), point(2, 11, None, entropy=0.1), point(1, 3, 2, reward=0.0)):
        model.take(one)
    model.apply()
    table.update()
    assert [(row["Step"], row["reward"], row["entropy"]) for row in shown(table)] == [
        ("1", "1", ""),
        ("2", "9", "0.1"),
    ]
    assert table.columnCount() == model.columnCount() == 5
