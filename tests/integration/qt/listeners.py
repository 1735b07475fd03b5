"""Objects of a GUI that hear a runner, and what is left of runners.

Owns what the tests of the runner share.
"""

from __future__ import annotations

import threading

from PySide6.QtCore import QObject, QThread

from trainshed_client.qt import TrainerClientRunner


class Heard(QObject):
    """Keeps what a runner emits, and in which thread."""

    def __init__(self, runner: TrainerClientRunner) -> None:
        super().__init__()
        self.states: list[str] = []
        self.failures: list[str] = []
        self.threads: set[QThread] = set()
        runner.connection_changed.connect(self._hear_state)
        runner.failed.connect(self._hear_failure)

    def _hear_state(self, state: str) -> None:
        self.threads.add(QThread.currentThread())
        self.states.append(state)

    def _hear_failure(self, text: str) -> None:
        self.threads.add(QThread.currentThread())
        self.failures.append(text)


class Window(QObject):
    """Asks, and keeps what it is answered, and in which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[object] = []
        self.errors: list[object] = []

    def take(self, answer: object) -> None:
        assert QThread.currentThread() is self.thread()
        self.answers.append(answer)

    def refuse(self, error: object) -> None:
        assert QThread.currentThread() is self.thread()
        self.errors.append(error)


def threads_of_runners() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("trainshed-qt")]
