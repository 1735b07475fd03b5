"""A runner under what a GUI does to it: callbacks that raise, stop it or open a dialog, and objects that are deleted."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
import shiboken6
from PySide6.QtCore import QEventLoop, QTimer
from pytestqt.qtbot import QtBot

from tests.integration.qt.backstage import Backstage
from tests.integration.qt.listeners import Heard, Window, threads_of_runners
from tests.support.gui import RUN, run_record
from trainshed_client import subjects
from trainshed_client.qt import SubmitForm, TrainerClientRunner

NewRunner = Callable[[str], TrainerClientRunner]


def test_what_was_followed_begins_when_connecting_works_at_last(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    backstage.put_runs(run_record())
    runner = new_runner(backstage.url.replace(":" + backstage.url.rpartition(":")[2], ":1"))
    records: list[Any] = []
    reached: list[str] = []
    runner.run_changed.connect(records.append)
    runner.present_reached.connect(reached.append)
    runner.watch_runs()
    runner.start()
    runner.watch_slots()
    qtbot.waitUntil(lambda: runner.state == "closed")
    runner._url = backstage.url  # the server is there now
    runner.start()
    qtbot.waitUntil(lambda: set(reached) == {"runs", "slots"})
    assert [record.run_id for record in records] == [RUN]


def test_what_is_asked_of_one_that_is_not_started_is_answered_all_the_same(
    qtbot: QtBot, new_runner: NewRunner
) -> None:
    runner = new_runner("nats://127.0.0.1:1")
    window = Window()
    future = runner.cancel(RUN, done=window.take, error=window.refuse)
    assert window.errors == []  # not before the call has given its future
    qtbot.waitUntil(lambda: window.errors == [future.exception(0)])
    form = SubmitForm(runner)
    qtbot.addWidget(form)
    for _ in range(2):
        form.submit()
        qtbot.waitUntil(lambda: "not started" in form.error)


def test_what_a_stop_leaves_unanswered_is_refused(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    runner = new_runner(backstage.url)
    heard = Heard(runner)
    window = Window()
    runner.start()
    qtbot.waitUntil(lambda: runner.state == "connected")

    async def never(client: object) -> None:
        await asyncio.Event().wait()

    future = runner.call(never, error=window.refuse)
    runner.call(never)
    runner.stop()
    assert window.errors == []
    qtbot.waitUntil(lambda: window.errors == [future.exception(0)])
    assert heard.failures == []


def test_a_callback_that_raises_holds_nothing_up(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    backstage.answer(
        subjects.api("run.cancel"), lambda request: {"run_id": RUN, "status": "RUNNING", "seq": 4}
    )
    runner = new_runner(backstage.url)
    records: list[Any] = []
    runner.run_changed.connect(records.append)
    runner.watch_runs()
    runner.start()
    with qtbot.captureExceptions() as raised:
        runner.cancel(RUN, done=lambda answer: 1 / 0)
        qtbot.waitUntil(lambda: bool(raised))
        backstage.put_runs(run_record())
        qtbot.waitUntil(lambda: bool(records))
    assert [kind for kind, *_ in raised] == [ZeroDivisionError]


def test_a_dialog_that_a_callback_opens_holds_nothing_up(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    backstage.put_runs(run_record())
    runner = new_runner(backstage.url)
    records: list[Any] = []
    dialog = QEventLoop()
    runner.run_changed.connect(records.append)
    runner.watch_runs()
    runner.start()
    qtbot.waitUntil(lambda: bool(records))

    def ask(record: Any) -> None:
        runner.run_changed.disconnect(ask)
        QTimer.singleShot(0, lambda: backstage.put_runs(run_record(seq=3)))
        runner.run_changed.connect(dialog.quit)
        QTimer.singleShot(5_000, lambda: dialog.exit(1))
        assert dialog.exec() == 0

    runner.run_changed.connect(ask)
    backstage.put_runs(run_record(seq=2))
    qtbot.waitUntil(lambda: records[-1].seq == 3)
    backstage.put_runs(run_record(seq=4))
    qtbot.waitUntil(lambda: records[-1].seq == 4)
    assert [record.seq for record in records] == [1, 2, 3, 4]


def test_one_that_a_callback_stops_emits_nothing_more(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    backstage.put_runs(*(run_record(f"run{number:03}", seq=number + 1) for number in range(1_000)))
    runner = new_runner(backstage.url)
    heard: list[str] = []

    def stop(record: object) -> None:
        heard.append("run")
        runner.stop()

    runner.run_changed.connect(stop)
    runner.frame_ended.connect(lambda: heard.append("frame") if runner.state == "closed" else None)
    runner.watch_runs()
    runner.start()
    qtbot.waitUntil(lambda: bool(heard))
    qtbot.wait(100)
    assert heard == ["run"]
    assert threads_of_runners() == []


@pytest.mark.parametrize("by_qt", [True, False])
def test_one_that_is_deleted_ends(qtbot: QtBot, backstage: Backstage, by_qt: bool) -> None:
    runner: TrainerClientRunner | None = TrainerClientRunner(backstage.url)
    assert runner is not None
    runner.start()
    qtbot.waitUntil(lambda: runner is not None and runner.state == "connected")
    qtbot.wait(100)  # nothing arrives any more
    if by_qt:
        shiboken6.delete(runner)
    else:
        del runner
        gc.collect()
    qtbot.waitUntil(lambda: threads_of_runners() == [])
