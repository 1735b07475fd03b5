"""How long a GUI of the Qt bridge stands still: three sorted views of 10,000 runs each, while 1,000 records arrive a second.

Usage: python -m bench.qt_gap [--seconds 60] [--runs 10000] [--rate 1000] [--platform offscreen]; on a screen: `xvfb-run -a -s
"-screen 0 1920x1080x24" python -m bench.qt_gap`. Without `--platform` it is QT_QPA_PLATFORM, else the screen that there is, else
offscreen. Figures: the time between two ticks of a 1 ms timer in the GUI's thread (median, p99, longest); target: under 16 ms, a
frame of a screen; the bar: 250 ms. "at work": the processor time of that thread in a gap; the rest of it the thread waited for a
processor or for the interpreter. "machine": the same timer beside the publisher, before the runner is started. A process of its
own publishes the records to a real nats-server as a projector does.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench.timing import machine
from events.streams import ensure_streams
from services.access.local_realm import Unconfined
from services.nats_server.embedded_nats import EmbeddedNats
from trainshed_client.endpoint import parse_url
from trainshed_client.nats_client import connect

TARGET_MS, BAR_MS = 16.0, 250.0
VIEWS = (("Step", True), ("Submitted", True), ("Run", False))
"""The column by which each view is sorted, and whether the greatest is first: rows move all the time in the first two."""
TICKS_OF_A_SECOND = 50
MACHINE_S = 5.0


def record(number: int, seq: int) -> bytes:
    """A run's record as the bucket has it: it has made a step since it was put last."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 1000 % 1_000_000:06}Z"
    return (
        f'{{"run_id": "{number:026}", "name": "ppo-{number % 977}", "status": "RUNNING", "attempt": 1, "digest": "d", '
        f'"seq": {seq}, "submit_seq": {number}, "priority": 0, "labels": {{"sweep": "s{number % 7}"}}, "node": "gpu{number % 40}", '
        f'"slots": [{number % 8}], "submitted_at": "{at}", "updated_at": "{at}", "step": {seq % 100_003}, '
        f'"progress": {seq % 1000 / 1000}, "metrics": {{"reward": {seq % 50_000 / 7}, "loss": {1 / (seq + 1)}}}}}'
    ).encode()


async def publish(url: str, runs: int, rate: int) -> None:
    """Put every run once, then say so and go on changing ``rate`` of them a second for ever."""
    nc = await connect(parse_url(url, given_by="url"), name="bench-projector")
    for number in range(runs):
        await nc.publish(f"$KV.trainshed_runs.{number:026}", record(number, number + 1))
    await nc.flush()
    print("put", flush=True)
    loop = asyncio.get_running_loop()
    begun, done, seq = loop.time(), 0, runs
    while True:
        due = int((loop.time() - begun) * rate)
        for _ in range(done, due):
            seq += 1
            number = seq * 7919 % runs
            await nc.publish(f"$KV.trainshed_runs.{number:026}", record(number, seq))
        done = due
        await asyncio.sleep(1 / TICKS_OF_A_SECOND)


def measure(url: str, seconds: float, *, freeze: bool) -> int:
    """Show the views, and print the figures."""
    from PySide6.QtCore import Qt, QTimer
    from PySide6.QtWidgets import QApplication, QHBoxLayout, QTableView, QWidget

    from trainshed_client.qt import RunsModel, SortedTable, TableDelegate, TrainerClientRunner

    application = QApplication(sys.argv[:1])
    window = QWidget()
    layout = QHBoxLayout(window)
    runner = TrainerClientRunner(url, window)
    runner.failed.connect(lambda text: print("failed:", text, flush=True))
    model = RunsModel(runner, window)
    titles = [column.title for column in model.columns]
    for title, descending in VIEWS:
        view = QTableView()
        view.setModel(SortedTable(model, view))
        view.setItemDelegate(TableDelegate(view))
        view.verticalHeader().hide()
        view.setSortingEnabled(True)
        order = Qt.SortOrder.DescendingOrder if descending else Qt.SortOrder.AscendingOrder
        view.sortByColumn(titles.index(title), order)
        layout.addWidget(view)
    window.resize(1800, 900)
    window.show()
    if freeze:
        gc.collect()
        gc.freeze()

    gaps: list[Gap] = []
    changes = 0
    last = worked = 0.0

    def count() -> None:
        nonlocal changes
        changes += 1

    def tick() -> None:
        nonlocal last, worked
        now, work = time.perf_counter(), time.thread_time()
        gaps.append(Gap(now - last, work - worked))
        last, worked = now, work

    def begin_gaps() -> None:
        nonlocal last, worked
        gaps.clear()
        last, worked = time.perf_counter(), time.thread_time()

    ticker = QTimer()
    ticker.setTimerType(Qt.TimerType.PreciseTimer)
    ticker.setInterval(1)
    ticker.timeout.connect(tick)

    def report() -> None:
        ticker.stop()
        shown(
            gaps,
            "steady",
            f"{changes / seconds:,.0f} records a second, {model.rowCount():,} rows, three views",
        )
        application.exit(0 if max(gaps).wall_s < BAR_MS / 1000 else 1)

    def load() -> None:
        shown(gaps, "machine", f"nothing but the timer, {application.platformName()}")
        begin_gaps()
        runner.start()

    def present() -> None:
        shown(gaps, "loading", f"{model.rowCount():,} rows were there when they were asked for")
        QTimer.singleShot(2_000, begin)

    def begin() -> None:
        runner.run_changed.connect(count)
        begin_gaps()
        QTimer.singleShot(round(seconds * 1000), report)

    runner.present_reached.connect(present)
    runner.watch_runs()
    ticker.start()
    QTimer.singleShot(1_000, begin_gaps)  # the window has been drawn by then
    QTimer.singleShot(round(1_000 + MACHINE_S * 1000), load)
    code: int = application.exec()
    runner.stop()
    return code


class Gap(NamedTuple):
    """The time between two ticks, and for how much of it the GUI's thread had a processor."""

    wall_s: float
    work_s: float


def shown(gaps: list[Gap], what: str, note: str) -> None:
    """Print the figures of these gaps."""
    walls, works = (sorted(each * 1000 for each in column) for column in zip(*gaps, strict=True))
    over, worked = (sum(each > TARGET_MS for each in column) for column in (walls, works))
    at = int(len(walls) * 0.99)
    print(
        f"{what}: median {walls[len(walls) // 2]:.1f} ms, p99 {walls[at]:.1f} ms, longest {walls[-1]:.1f} ms, "
        f"{over} of {len(walls):,} over {TARGET_MS:.0f} ms; at work: p99 {works[at]:.1f} ms, longest {works[-1]:.1f} ms, "
        f"{worked} over {TARGET_MS:.0f} ms ({note})",
        flush=True,
    )


def platform() -> str | None:
    """The platform that Qt is to have; None: that of the screen that there is."""
    named = os.environ.get("QT_QPA_PLATFORM")
    has_screen = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return named or (None if has_screen else "offscreen")


def main() -> int:
    """Start the server, whoever publishes, and the GUI."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--platform", default=platform(), help="Qt's: offscreen, xcb, ...")
    parser.add_argument("--freeze", action="store_true", help="gc.freeze() once the window is shown")
    parser.add_argument("--publish", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        asyncio.run(publish(options.publish, options.runs, options.rate))
        return 0
    if options.platform is not None:
        os.environ["QT_QPA_PLATFORM"] = options.platform
    print(machine())
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as loop:
        server = EmbeddedNats(Path(folder), Unconfined())
        loop.run(_prepare(server))
        endpoint = server.endpoint
        url = endpoint.url.replace("//", f"//{endpoint.user}:{endpoint.password}@")
        command = [sys.executable, "-m", "bench.qt_gap", "--publish", url]
        rest = ["--runs", str(options.runs), "--rate", str(options.rate)]
        publisher = subprocess.Popen([*command, *rest], stdout=subprocess.PIPE)
        try:
            assert publisher.stdout is not None
            publisher.stdout.readline()
            return measure(url, options.seconds, freeze=options.freeze)
        finally:
            publisher.kill()
            publisher.wait()
            loop.run(server.stop())


async def _prepare(server: EmbeddedNats) -> None:
    await server.start()
    nc = await connect(server.endpoint, name="bench")
    await ensure_streams(nc)
    await nc.close()


if __name__ == "__main__":
    sys.exit(main())
