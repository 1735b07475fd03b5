"""The sorting proxy: whatever the table does, its rows are the table's, sorted and filtered, and Qt is told of each change."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import pytest
import shiboken6
from hypothesis import HealthCheck, given, settings
from PySide6.QtCore import QAbstractItemModel, QItemSelectionModel, QModelIndex, QPersistentModelIndex, Qt
from pytestqt.qtbot import QtBot

from tests.support.gui import run_record
from trainshed_client.metrics import MetricsPoint
from trainshed_client.qt import MetricsModel, RunsModel, SlotsModel, SortedTable, TableRole
from trainshed_client.qt.models.columns import RUN_COLUMNS
from trainshed_client.records import SlotRecord
from trainshed_client.statuses import RunStatus
from trainshed_client.watching.newest import Gone

Watch = Callable[[QAbstractItemModel], None]
STEP = [column.title for column in RUN_COLUMNS].index("Step")
DESCENDING = Qt.SortOrder.DescendingOrder


def add(model: RunsModel, *steps: float | None, begin: int = 0) -> None:
    for number, step in enumerate(steps, begin):
        model.take(run_record(f"run{number:05}", name=f"run {number}", step=step))
    model.apply()


def keys(model: QAbstractItemModel) -> list[str]:
    return [model.index(row, 0).data(TableRole.KEY) for row in range(model.rowCount())]


def steps(model: QAbstractItemModel) -> list[Any]:
    return [model.index(row, STEP).data(TableRole.SORT) for row in range(model.rowCount())]


def test_a_row_that_changes_moves_to_its_place(watched_model: Watch, qtbot: QtBot) -> None:
    model = RunsModel()
    table = SortedTable(model, update_ms=0)
    watched_model(table)
    table.sort(STEP, DESCENDING)
    add(model, 1, 5, None, 3, float("nan"), 9, 2)
    assert steps(table)[:5] == [9, 5, 3, 2, 1]
    add(model, 7)
    qtbot.waitUntil(lambda: steps(table)[:5] == [9, 7, 5, 3, 2])
    table.sort(STEP)
    assert steps(table)[2:] == [2, 3, 5, 7, 9]


def test_what_comes_soon_after_a_change_shows_together(watched_model: Watch, qtbot: QtBot) -> None:
    model = RunsModel()
    table = SortedTable(model, update_ms=60_000)
    watched_model(table)
    table.sort(STEP)
    add(model, 1, 2, 3)
    add(model, 1, 2, 4)
    table.update()
    layouts: list[object] = []
    changes: list[tuple[int, int]] = []
    table.layoutChanged.connect(lambda *_: layouts.append(0))
    table.dataChanged.connect(lambda first, last: changes.append((first.row(), last.row())))
    add(model, 9, 2)
    add(model, 9, 8)
    assert (steps(table), layouts, changes) == ([9, 8, 4], [], [])
    table.update()
    assert (steps(table), len(layouts), changes) == ([4, 8, 9], 1, [(0, 1)])


def test_a_selection_goes_with_its_record(watched_model: Watch) -> None:
    model = RunsModel()
    table = SortedTable(model)
    watched_model(table)
    add(model, *range(20))
    table.sort(STEP)
    selection = QItemSelectionModel(table)
    selection.select(table.index(3, 0), QItemSelectionModel.SelectionFlag.Select)
    kept = QPersistentModelIndex(table.index(15, STEP))
    table.sort(STEP, DESCENDING)
    add(model, 100, 101, 102, 103, 104, 105, begin=50)
    assert [index.data(TableRole.KEY) for index in selection.selectedIndexes()] == ["run00003"]
    assert kept.data(TableRole.SORT) == 15
    table.set_filter(lambda record: record.step % 2 == 0)
    assert selection.selectedIndexes() == []
    assert not kept.isValid()


def test_a_filter_follows_what_changes(watched_model: Watch) -> None:
    model = RunsModel()
    table = SortedTable(model)
    watched_model(table)
    table.set_filter(lambda record: record.status is RunStatus.RUNNING)
    add(model, *range(30))
    assert keys(table) == []
    model.take(run_record("run00007", status=RunStatus.RUNNING, name="seven"))
    model.apply()
    table.update()
    assert keys(table) == ["run00007"]
    table.set_filter_text("Sev RUNN")
    assert keys(table) == ["run00007"]
    table.set_filter_text("eight")
    assert keys(table) == []
    table.set_filter_text("")
    table.set_filter(None)
    assert len(keys(table)) == 30


def test_what_is_gone_leaves(watched_model: Watch) -> None:
    model = SlotsModel()
    table = SortedTable(model)
    watched_model(model)
    watched_model(table)
    for index in range(8):
        model.take(SlotRecord(node="box", index=index))
    model.apply()
    for index in (0, 1, 5, 9):
        model.take(Gone(f"box.{index}"))
    model.apply()
    assert keys(table) == keys(model) == ["box.2", "box.3", "box.4", "box.6", "box.7"]
    model.take(SlotRecord(node="box", index=1))
    model.apply()
    assert keys(table)[0] == "box.1"
    assert keys(model)[-1] == "box.1"


def test_both_models_map_to_each_other(watched_model: Watch) -> None:
    model = RunsModel()
    table = SortedTable(model)
    table.sort(STEP, DESCENDING)
    add(model, 4, 2, 8)
    for row in range(3):
        index = table.index(row, STEP)
        source = table.mapToSource(index)
        assert source.data(TableRole.SORT) == index.data(TableRole.SORT) == index.data(TableRole.RECORD).step
        assert table.mapFromSource(source) == index
    assert not table.mapToSource(QModelIndex()).isValid()
    assert table.headerData(STEP, Qt.Orientation.Horizontal) == "Step"


CHANGES = st.lists(
    st.one_of(
        st.tuples(
            st.just("take"),
            st.lists(st.tuples(st.integers(0, 12), st.one_of(st.none(), st.integers(0, 6))), max_size=12),
        ),
        st.tuples(st.just("gone"), st.lists(st.integers(0, 12), max_size=8)),
        st.tuples(st.just("sort"), st.booleans()),
        st.tuples(st.just("filter"), st.integers(0, 6)),
        st.tuples(st.just("update"), st.none()),
    ),
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES)
def test_whatever_happens_the_rows_are_those_of_the_table(
    watched_model: Watch, changes: list[tuple[str, Any]]
) -> None:
    model = RunsModel()
    table = SortedTable(model)
    watched_model(model)
    watched_model(table)
    descending, least = False, 0
    table.sort(STEP)
    for kind, value in changes:
        if kind == "take":
            for number, step in value:
                model.take(run_record(f"run{number:05}", step=step))
            model.apply()
        elif kind == "gone":
            for number in value:
                model.take(Gone(f"run{number:05}"))
            model.apply()
        elif kind == "sort":
            descending = value
            table.sort(STEP, DESCENDING if descending else Qt.SortOrder.AscendingOrder)
        elif kind == "filter":
            least = value
            table.set_filter(lambda record, least=least: (record.step or 0) >= least)  # type: ignore[misc]
        else:
            table.update()
    table.update()
    expected = [key for key in keys(model) if (model.record(key).step or 0) >= least]  # type: ignore[union-attr]
    assert sorted(keys(table)) == sorted(expected)
    shown = [-1 if step is None else step for step in steps(table)]
    assert shown == sorted(shown, reverse=descending)


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_a_table_that_is_full_already_is_taken_over(watched_model: Watch, count: int) -> None:
    model = RunsModel()
    add(model, *range(count))
    table = SortedTable(model)
    watched_model(table)
    assert len(keys(table)) == count


@pytest.mark.parametrize("by_qt", [True, False])
def test_a_table_that_outlives_its_view_holds_no_proxy(qtbot: QtBot, by_qt: bool) -> None:
    model = MetricsModel("run")
    view: SortedTable | None = SortedTable(model)
    assert view is not None
    alive = weakref.ref(view)
    if by_qt:
        shiboken6.delete(view)
    else:
        del view
        gc.collect()
        assert alive() is None
    with qtbot.captureExceptions() as raised:
        model.take(MetricsPoint(1, datetime(2026, 5, 3, tzinfo=UTC), 1, None, {"reward": 1.0}))
        model.apply()
    assert raised == []
    assert model.columnCount() == 3
