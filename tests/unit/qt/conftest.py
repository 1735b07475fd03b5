"""What watches Qt's models while a test changes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PySide6.QtCore import QAbstractItemModel
from PySide6.QtTest import QAbstractItemModelTester
from pytestqt.qtbot import QtBot


@pytest.fixture
def watched_model(qtbot: QtBot, qtlog: Any) -> Iterator[Callable[[QAbstractItemModel], None]]:
    """Has Qt's own tester look at every change of a model; a breach of the rules of models fails the test."""
    testers = []

    def watch(model: QAbstractItemModel) -> None:
        # As warnings: the tester would otherwise end the process, and with it all other tests.
        testers.append(QAbstractItemModelTester(model, QAbstractItemModelTester.FailureReportingMode.Warning))

    yield watch
    assert [record.message for record in qtlog.records] == []
