"""The example's window: what it keeps of runs that are no longer shown."""

from __future__ import annotations

import os

from PySide6.QtCore import QEvent
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from examples.qt.window import TrainerWindow
from tests.support.gui import run_record
from trainshed_client.qt import MetricsModel, TrainerClientRunner


def test_one_run_after_the_other_leaves_one_model(qtbot: QtBot) -> None:
    window = TrainerWindow(TrainerClientRunner("nats://127.0.0.1:1"))
    qtbot.addWidget(window)
    for number in range(5):
        window.panel.show_run(run_record(f"run{number}"))
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    (model,) = window.panel.findChildren(MetricsModel)
    assert model.run_id == "run4"


def test_the_platform_is_the_one_that_was_asked_for(qapp: QApplication) -> None:
    assert qapp.platformName() == os.environ["QT_QPA_PLATFORM"]
