"""The runner's life: how it connects, ends and fails, over a real nats-server."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import shiboken6
from PySide6.QtCore import QThread
from pytestqt.qtbot import QtBot

from tests.integration.qt.backstage import Backstage
from tests.integration.qt.listeners import Heard, Window, threads_of_runners
from tests.support.gui import RUN, run_record
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.qt import RunsModel, TrainerClientRunner
from trainshed_client.statuses import RunStatus

NewRunner = Callable[[str], TrainerClientRunner]


def test_it_connects_and_ends(qtbot: QtBot, backstage: Backstage, new_runner: NewRunner) -> None:
    runner = new_runner(backstage.url)
    heard = Heard(runner)
    runner.start()
    assert runner.state == "connecting"
    qtbot.waitUntil(lambda: runner.state == "connected")
    runner.stop()
    assert heard.states == ["connecting", "connected", "closed"]
    assert heard.failures == []
    assert heard.threads == {QThread.currentThread()}
    assert threads_of_runners() == []


def test_one_that_is_started_twice_says_so_and_goes_on(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    runner = new_runner(backstage.url)
    heard = Heard(runner)
    runner.start()
    runner.start()
    assert "started already" in heard.failures[0]
    qtbot.waitUntil(lambda: runner.state == "connected")
    assert len(threads_of_runners()) == 1


def test_a_server_that_is_not_there_is_named(qtbot: QtBot, new_runner: NewRunner) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{free.getsockname()[1]}"
    runner = new_runner(url)
    heard = Heard(runner)
    runner.start()
    asked = runner.cancel(RUN)
    qtbot.waitUntil(lambda: bool(heard.failures))
    assert runner.state == "closed"
    assert heard.states == ["connecting", "closed"]
    assert any(url in text for text in heard.failures)
    error = asked.exception(1)
    assert isinstance(error, TrainshedError) and error.code is ErrorCode.UNAVAILABLE
    runner.start()  # it may be tried again
    assert runner.state == "connecting"


@pytest.mark.parametrize("url", ["nats://", "http://127.0.0.1:1", "nats://a b"])
def test_what_is_no_url_is_named(qtbot: QtBot, new_runner: NewRunner, url: str) -> None:
    runner = new_runner(url)
    heard = Heard(runner)
    runner.start()
    qtbot.waitUntil(lambda: bool(heard.failures))
    assert "no NATS URL" in heard.failures[0]
    assert runner.state == "closed"


def test_a_wrong_password_is_named_and_not_shown(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    user = backstage.server.endpoint.user
    runner = new_runner(backstage.server.endpoint.url.replace("//", f"//{user}:guessed@"))
    heard = Heard(runner)
    runner.start()
    qtbot.waitUntil(lambda: bool(heard.failures))
    assert f"refuses user {user}" in heard.failures[0]
    assert "guessed" not in heard.failures[0]


def test_one_that_is_stopped_while_it_connects_says_so(qtbot: QtBot, new_runner: NewRunner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        runner = new_runner(f"nats://127.0.0.1:{silent.getsockname()[1]}")
        heard = Heard(runner)
        runner.start()
        connection, _ = silent.accept()
        asked = runner.cancel(RUN)
        begin = time.monotonic()
        runner.stop()
        assert time.monotonic() - begin < 2
        connection.close()
    assert heard.states == ["connecting", "closed"]
    assert "stopped while it was connecting" in heard.failures[0]
    assert isinstance(asked.exception(1), TrainshedError)
    assert threads_of_runners() == []


def test_a_server_that_hangs_holds_no_stop_up(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    runner = new_runner(backstage.url)
    runner.start()
    qtbot.waitUntil(lambda: runner.state == "connected")
    runner.watch_runs()
    os.kill(backstage.server.pid, signal.SIGSTOP)
    try:
        asked = [runner.submit({"entry_point": "x" * 900_000}) for _ in range(10)]
        qtbot.wait(200)
        begin = time.monotonic()
        runner.stop()
        assert time.monotonic() - begin < 2
    finally:
        os.kill(backstage.server.pid, signal.SIGCONT)
    assert threads_of_runners() == []
    for one in asked:
        error = one.exception(0)
        assert isinstance(error, TrainshedError) and "was stopped" in error.message


def test_fifty_lives_leave_no_thread_and_no_socket(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    runner = new_runner(backstage.url)

    def live() -> None:
        runner.watch_runs()
        runner.start()
        qtbot.waitUntil(lambda: runner.state == "connected")
        runner.stop()

    def held() -> tuple[int, int, int]:
        gc.collect()  # what earlier tests left
        links = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_symlink()]
        sockets = [link for link in links if link.startswith("socket:")]
        return threading.active_count(), len(sockets), len(links)

    live()
    before = held()
    for _ in range(50):
        live()
    assert held() == before


def test_records_come_as_they_are_published(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    backstage.put_runs(run_record())
    runner = new_runner(backstage.url)
    records: list[Any] = []
    runner.run_changed.connect(records.append)
    runner.watch_runs()
    runner.start()
    qtbot.waitUntil(lambda: bool(records))
    backstage.put_runs(*(run_record(seq=seq, status=RunStatus.RUNNING) for seq in range(2, 500)))
    qtbot.waitUntil(lambda: records[-1].seq == 499)
    assert (records[0].run_id, records[0].seq) == (RUN, 1)
    assert [record.seq for record in records] == sorted(record.seq for record in records)


def test_a_gui_that_stood_still_gets_the_newest_alone(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    backstage.put_runs(run_record())
    runner = new_runner(backstage.url)
    records: list[Any] = []
    runner.run_changed.connect(records.append)
    runner.watch_runs()
    runner.start()
    qtbot.waitUntil(lambda: bool(records))
    for begin in range(2, 2_000, 111):  # the GUI's thread is here meanwhile
        backstage.put_runs(*(run_record(seq=begin + n, status=RunStatus.RUNNING) for n in range(111)))
    qtbot.waitUntil(lambda: records[-1].seq == 1_999)
    assert len(records) < 10


def test_output_beyond_two_gigabytes_keeps_its_offset(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    begin, data = 3 << 30, b"\x00step 1\xff\n"
    record = run_record(status=RunStatus.RUNNING, node="gpu01")
    view = {"v": 1, "seq": 1, "run": record, "config": {}, "attempts": [], "timeline": []}
    backstage.answer(subjects.api("run.get"), lambda request: view)

    async def serve() -> None:
        async def read(msg: Any) -> None:
            headers = {subjects.OFFSET_HEADER: str(begin), subjects.SIZE_HEADER: str(begin + len(data))}
            stream = b'"stdout"' in msg.data
            await backstage.nc.publish(msg.reply, data if stream else b"", headers=headers)

        await backstage.nc.subscribe(subjects.node_output("gpu01"), cb=read)
        await backstage.nc.flush()

    backstage.do(serve())
    runner = new_runner(backstage.url)
    chunks: list[tuple[Any, ...]] = []
    runner.output_received.connect(lambda *chunk: chunks.append(chunk))
    runner.follow_output(RUN, since=begin)
    runner.start()
    qtbot.waitUntil(lambda: bool(chunks))
    assert chunks == [(RUN, 1, "stdout", begin, data)]
    assert type(chunks[0][4]) is bytes


def test_the_config_of_a_run_comes_when_it_is_granted_a_place(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    config = {"entry_point": "train.py", "metadata": {"worker": {"anything": 1}}}
    asked: list[str] = []

    def view(request: Any) -> object:
        asked.append(request["run_id"])
        return {"v": 1, "seq": 1, "run": run_record(), "config": config, "attempts": [], "timeline": []}

    backstage.answer(subjects.api("run.get"), view)
    runner = new_runner(backstage.url)
    records: list[Any] = []
    configs: list[Any] = []
    runner.run_changed.connect(records.append)
    runner.config_received.connect(lambda *values: configs.append(values))
    runner.watch_runs()
    runner.start()
    backstage.put_runs(run_record())
    qtbot.waitUntil(lambda: bool(records))
    assert runner.config_of(RUN) is None
    backstage.put_runs(run_record(seq=2, status=RunStatus.DISPATCHING, node="gpu01"))
    qtbot.waitUntil(lambda: bool(configs))
    backstage.put_runs(run_record(seq=3, status=RunStatus.RUNNING, node="gpu01"))
    qtbot.waitUntil(lambda: records[-1].seq == 3)
    assert configs == [(RUN, config)]
    assert runner.config_of(RUN) == config
    assert asked == [RUN]


def test_after_a_restart_of_the_server_the_newest_is_there(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    runner = new_runner(backstage.url)
    heard = Heard(runner)
    model = RunsModel(runner)
    reached: list[str] = []
    runner.present_reached.connect(reached.append)
    runner.watch_runs()
    runner.start()
    backstage.put_runs(run_record(), run_record("other", seq=2))
    qtbot.waitUntil(lambda: model.rowCount() == 2)
    backstage.restart()
    qtbot.waitUntil(lambda: runner.state == "reconnecting" or len(heard.states) > 2)
    qtbot.waitUntil(lambda: runner.state == "connected")
    backstage.prepare()  # its records were in memory
    backstage.put_runs(run_record(seq=5, step=7), run_record("other", seq=2), run_record("third", seq=6))
    qtbot.waitUntil(lambda: model.rowCount() == 3, timeout=20_000)
    qtbot.waitUntil(lambda: getattr(model.record(RUN), "seq", 0) == 5, timeout=20_000)
    assert heard.states == ["connecting", "connected", "reconnecting", "connected"]
    assert reached == ["runs"]  # once


def test_answers_are_handed_over_in_the_guis_thread(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner
) -> None:
    answers: list[dict[str, object]] = [
        {"run_id": RUN, "status": "RUNNING", "seq": 4},
        {"error": {"code": "invalid", "message": "it must be above 0", "path": "resources.cpus"}},
        {"error": {"code": "invalid", "message": "no"}},
    ]
    backstage.answer(subjects.api("run.cancel"), lambda request: answers.pop(0))
    runner = new_runner(backstage.url)
    heard = Heard(runner)
    window = Window()
    runner.start()
    future = runner.cancel(RUN, done=window.take, error=window.refuse)
    qtbot.waitUntil(lambda: bool(window.answers))
    assert future.result(0) == window.answers[0]
    runner.cancel(RUN, done=window.take, error=window.refuse)
    qtbot.waitUntil(lambda: bool(window.errors))
    (error,) = window.errors
    assert isinstance(error, TrainshedError) and error.path == "resources.cpus"
    assert heard.failures == []
    runner.cancel(RUN)
    qtbot.waitUntil(lambda: heard.failures == ["no"])


@pytest.mark.parametrize("by_qt", [True, False])
def test_an_answer_for_what_is_deleted_is_handed_to_nobody(
    qtbot: QtBot, backstage: Backstage, new_runner: NewRunner, by_qt: bool
) -> None:
    backstage.answer(
        subjects.api("run.cancel"), lambda request: {"run_id": RUN, "status": "RUNNING", "seq": 4}
    )
    runner = new_runner(backstage.url)
    heard = Heard(runner)
    window: Window | None = Window()
    assert window is not None
    answers = window.answers
    runner.start()
    future = runner.cancel(RUN, done=window.take)
    assert future.result(5)
    if by_qt:
        shiboken6.delete(window)
    else:
        del window
        gc.collect()
    after = runner.cancel(RUN)
    qtbot.waitUntil(lambda: after.done())
    qtbot.wait(100)
    assert (answers, heard.failures) == ([], [])
