"""Takes the pictures of README.md: a stack of its own, real training runs, and the window on a screen of Xvfb.

Usage: `xvfb-run -a -s "-screen 0 1600x1000x24" python -m examples.qt.screenshots`. Writes the PNGs beside itself.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PySide6.QtCore import QCoreApplication, QEvent
from PySide6.QtWidgets import QApplication, QWidget

from examples.qt.look import dress
from examples.qt.window import TrainerWindow
from trainshed_client import RunRecord
from trainshed_client.qt import TableRole, TrainerClientRunner

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
TRAINSHED = Path(sysconfig.get_path("scripts")) / "trainshed"
WITHIN_S = 60.0


def cartpole(seed: int, **changes: object) -> dict[str, object]:
    """The run config of a real training: CartPole by REINFORCE."""
    return {
        "run_name": f"cartpole-seed{seed}",
        "entry_point": sys.executable,
        "arguments": ["examples/cartpole.py", "--seed", str(seed), "--iterations", "300"],
        "working_dir": str(CHECKOUT),
        "labels": {"sweep": "seeds"},
        "resources": {"gpus": {"requested": 1}},
        "heartbeat": {"source": "notify"},
        **changes,
    }


@contextlib.contextmanager
def stack(folder: Path) -> Iterator[None]:
    """`trainshed up` with two declared GPUs; it is found by TRAINSHED_STATE_DIR."""
    for name in [name for name in os.environ if name.startswith(("TRAINSHED_", "NATS_"))]:
        del os.environ[name]
    os.environ["TRAINSHED_STATE_DIR"] = str(folder)
    os.environ["TRAINSHED_WORKER_USERS"] = "*=root"  # where root runs this
    log = folder.with_name("up.log")
    with log.open("wb") as out:
        up = subprocess.Popen(
            [TRAINSHED, "up", "--node", "gpu01", "--gpus", "2", "--cpus", "8", "--memory", "16384"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        wait_for(lambda: b"Trainshed is up" in log.read_bytes())
        yield
    finally:
        up.terminate()
        up.wait(20)


def wait_for(is_so: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Let the window live until it is so."""
    until = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError("the stack or the window did not come as far as its picture needs")
        if QCoreApplication.instance() is not None:
            QCoreApplication.processEvents()
            QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
        time.sleep(0.01)


def take(widget: QWidget, name: str) -> None:
    """Write one picture, a moment after all has been drawn."""
    until = time.monotonic() + 0.3
    wait_for(lambda: time.monotonic() > until)
    widget.grab().save(str(HERE / name))
    print(HERE / name)


def main() -> int:
    """Submit, wait for what is to be seen, and take it."""
    with tempfile.TemporaryDirectory() as folder, stack(Path(folder) / "state"):
        application = QApplication(sys.argv[:1])
        dress(application)
        runner = TrainerClientRunner()
        window = TrainerWindow(runner)
        window.show()
        runner.start()
        wait_for(lambda: runner.state == "connected")
        configs = [cartpole(seed) for seed in range(1, 7)]
        configs.insert(
            1, cartpole(11, arguments=["examples/cartpole.py", "--fail-at", "12"], run_name="cartpole-broken")
        )
        configs.append(cartpole(7, run_name="cartpole-both-gpus", resources={"gpus": {"requested": 2}}))
        for config in configs:
            runner.submit(config).result(10)
        wait_for(lambda: window.runs.rowCount() == len(configs))
        rows = range(window.runs.rowCount())
        chosen = next(row for row in rows if record(window, row).name == "cartpole-seed1")
        window.runs_view.setCurrentIndex(window.runs_view.model().mapFromSource(window.runs.index(chosen, 0)))  # type: ignore[attr-defined]
        wait_for(lambda: (record(window, chosen).step or 0) >= 120)
        take(window, "window.png")
        window.form.set_config(cartpole(8, entry_point="python3"))
        window.form.fields["working_dir"].set_value("project")
        window.form.fields["resources.gpus.requested"].set_value(4)
        window.form.fields["environment"].set_value({"API_KEY": "0123"})
        window._open_form()
        window.form.submit()
        wait_for(lambda: window.form.fields["working_dir"].error)
        take(window.dialog, "form.png")
        window.dialog.hide()
        window.tabs.setCurrentIndex(1)
        wait_for(
            lambda: any(
                str(record(window, row).status) == "COMPLETED" for row in range(window.runs.rowCount())
            )
        )
        take(window, "later.png")
        records = [record(window, row) for row in range(window.runs.rowCount())]
        for one in records:
            if not one.status.ended:
                runner.cancel(one.run_id)
        wait_for(lambda: all(record(window, row).status.ended for row in range(window.runs.rowCount())))
        runner.stop()
    return 0


def record(window: TrainerWindow, row: int) -> RunRecord:
    """The record of a row of the runs."""
    found: RunRecord = window.runs.index(row, 0).data(TableRole.RECORD)
    return found


if __name__ == "__main__":
    sys.exit(main())
