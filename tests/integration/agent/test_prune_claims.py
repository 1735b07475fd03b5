"""Two nodes share the runs' folder: one prunes a run, killed wherever it may be, while the other begins its next attempt.

Every call that changes something on the disk or looks at it is a step; both take theirs in every order of a few turns.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from services.agent.folders import claims, paths
from services.agent.folders.claims import TRASH
from services.agent.folders.paths import Folders
from services.agent.prune import prune, trash
from tests.integration.agent.stage import new_ref, run_id

RUN = run_id(5)
PRUNER, OTHER = "gpu01", "gpu-02"
STEPS = ("mkdir", "rename", "rmdir", "listdir", "stat")
ENDS = ("lives on", "killed", "killed and started anew")


class Killed(BaseException):
    """As kill -9: nothing that it would do afterwards happens."""


class Actor:
    """Work in a thread of its own, which stands after each step until it is let."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.done = False
        self.error: BaseException | None = None
        self._work = work
        self._let = threading.Semaphore(0)
        self._stands = threading.Semaphore(0)
        self.killed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        _actors[self._thread] = self
        self._thread.start()
        self._stands.acquire()

    def step(self, steps: int) -> bool:
        """Take so many; False where it ends with them."""
        for _ in range(steps):
            if self.done:
                break
            self._let.release()
            self._stands.acquire()
        return not self.done

    def end(self, *, killed: bool = False) -> None:
        """Let it go on to its end, or do nothing any more."""
        self.killed = killed
        while self.step(1):
            pass
        self._thread.join()
        _actors.pop(self._thread, None)

    def stand(self) -> None:
        if not self.killed:
            self._stands.release()
            self._let.acquire()
        if self.killed:
            raise Killed

    def _run(self) -> None:
        try:
            self.stand()
            self._work()
        except (OSError, prune.Kept, Killed) as error:
            self.error = error
        self.done = True
        self._stands.release()


_actors: dict[threading.Thread, Actor] = {}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def stepping(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            actor = _actors.get(threading.current_thread())
            if actor is None:
                return real(*args, **more)
            if actor.killed:
                raise Killed
            try:
                done = real(*args, **more)
            except OSError as error:
                if not (
                    isinstance(error, FileExistsError) and "dir_fd" in more
                ):  # what is made ahead is there
                    actor.stand()
                raise
            actor.stand()
            return done

        return call

    for name in STEPS:
        monkeypatch.setattr(os, name, stepping(getattr(os, name)))


class Shared:
    """What the two have: the pruner with output beside its runs' folder, in another that they share, too."""

    def __init__(self, root: Path, logs: bool) -> None:
        self.pruner, self.other = (
            Folders(root / node, root / "runs", root / "logs" if logs else None) for node in (PRUNER, OTHER)
        )
        self.pruner.make_roots()
        self.pruner.make_run(new_ref(5, 1))
        self.pruner.attempt(new_ref(5, 1)).mkdir(parents=True)
        self.run = self.pruner.run(RUN)
        (self.run / "ckpt").write_text("c")
        self.output = self.other.output(new_ref(5, 2))
        self.roots = [root / "runs", *([root / "logs"] if logs else [])]
        self.start_anew()

    def prune(self, attempt: int = 1) -> prune.Taken:
        left = prune.find(self.pruner, RUN)
        return prune.take_shared(self.pruner, PRUNER, left, attempt, "now")

    def start_anew(self) -> None:
        """What an agent does at its start."""
        for root in self.roots:
            for each in prune.leftovers(self.pruner, PRUNER, root):
                trash.delete(each, threading.Event())

    def begin(self) -> None:
        """Another node makes the next attempt's folder, and its worker writes."""
        self.other.make_run(new_ref(5, 2))
        (self.run / "artifacts/model").write_text("m")
        (self.output / "stdout.log").write_text("out")

    def check(self) -> None:
        """Whatever became of the pruning, the younger attempt has its files, and nothing is left of what went."""
        assert (self.run / "artifacts/model").read_text() == "m"
        assert (self.output / "stdout.log").read_text() == "out"
        assert (self.run / "attempts/2").is_dir(), "by this others see that it is in use"
        assert (self.run / "ckpt").exists() == (self.run / "attempts/1").exists(), (
            "all of it goes, or nothing"
        )
        for root in self.roots:
            assert os.listdir(root / TRASH / PRUNER) == []
            assert os.listdir(root / TRASH / ".claims") == [PRUNER]
        self.prune(2)
        assert not self.run.exists() and not self.output.exists()


def explore(root: Path, logs: bool) -> None:
    """Each order in turn: the pruner's first steps, the other's first, the pruner's next, then the rest of both.

    With ``logs`` there are more than twice as many steps, and the pruner's next are none or all.
    """
    for first in count():
        for others in count():
            for second in (0, 100) if logs else count():
                for how in ENDS:
                    there = play(root / "shared", logs, how, first, others, second)
                if not there[2]:
                    break
            if not there[1]:
                break
        if not there[0]:
            return


def play(root: Path, logs: bool, how: str, first: int, others: int, second: int) -> tuple[bool, bool, bool]:
    """One order; which of its turns there were."""
    shared = Shared(root, logs)
    pruner, other = Actor(shared.prune), Actor(shared.begin)
    there = pruner.step(first), other.step(others), pruner.step(second)
    if how != "lives on":
        pruner.end(killed=True)
    if how == "killed and started anew":
        shared.start_anew()
    other.end()
    pruner.end()
    assert other.error is None, repr(other.error)
    assert isinstance(pruner.error, Killed | prune.Kept | None), repr(pruner.error)
    shared.start_anew()
    shared.check()
    shutil.rmtree(root)
    return there


@pytest.fixture
def root() -> Iterator[Path]:
    """In memory where that can be had: on a disk most of the time goes into removing folders."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("logs", [False, True])
def test_a_younger_attempt_keeps_its_folder_in_every_order_and_after_every_kill(
    root: Path, steps: None, logs: bool
) -> None:
    explore(root, logs)


@pytest.mark.parametrize(
    ("where", "rule"), [(claims, "remove_older"), (paths, "_is_there"), (prune, "check")]
)
def test_each_step_of_the_two_is_needed(
    root: Path, steps: None, monkeypatch: pytest.MonkeyPatch, where: ModuleType, rule: str
) -> None:
    monkeypatch.setattr(where, rule, lambda *_: True)
    with pytest.raises((AssertionError, FileNotFoundError)):
        explore(root, False)
