"""Others on our GPUs: whose a process is, and from when until when a device counts as busy."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.types import AttemptRef
from services.agent.machine.busy import AFTER_OWN_END_S, GONE_S, SEEN_S, Busy
from services.agent.machine.owners import Owners

Look = tuple[float, bool]
"""When, and whether others computed there."""


def after(looks: list[Look], own_end_s: float | None = None) -> Busy:
    busy = Busy()
    for now_s, others in looks:
        busy = busy.look(now_s, others, own_end_s)
    return busy


@pytest.mark.parametrize(
    ("looks", "busy"),
    [
        ([(0, True)], False),
        ([(0, True), (29, True)], False),
        ([(0, True), (30, True)], True),
        ([(0, True), (15, False), (30, True)], False),
        ([(0, True), (15, False), (30, True), (60, True)], True),
        ([(0, True), (30, True), (31, False), (60, False)], True),
        ([(0, True), (30, True), (31, False), (61, False)], False),
        ([(0, True), (30, True), (31, False), (40, True), (62, False)], True),
    ],
)
def test_a_device_is_busy_once_others_were_seen_for_30_s_until_they_were_gone_for_30_s(
    looks: list[Look], busy: bool
) -> None:
    assert after(looks).busy == busy


def test_what_is_seen_within_10_s_of_an_own_end_is_what_is_left_of_that() -> None:
    looks = [(now_s, True) for now_s in (100.0, 105.0, 109.9, 125.0, 139.9)]
    assert not after(looks, own_end_s=100.0).busy
    assert after([*looks, (155.0, True)], own_end_s=100.0).busy


@given(
    st.lists(st.tuples(st.floats(0.1, 20), st.booleans(), st.booleans()), min_size=1, max_size=40),
)
def test_the_word_changes_only_after_looks_that_all_say_so_for_as_long(
    steps: list[tuple[float, bool, bool]],
) -> None:
    busy, now_s = Busy(), 0.0
    own_end_s: float | None = None
    looks: list[Look] = []
    for wait_s, others, own_end in steps:
        now_s += wait_s
        own_end_s = now_s if own_end else own_end_s
        before, busy = busy, busy.look(now_s, others, own_end_s)
        looks.append((now_s, others and (own_end_s is None or now_s - own_end_s >= AFTER_OWN_END_S)))
        if busy.busy != before.busy:
            streak = list(itertools.takewhile(lambda look: look[1] is looks[-1][1], reversed(looks)))
            assert busy.busy is looks[-1][1]
            assert now_s - streak[-1][0] >= (SEEN_S if busy.busy else GONE_S)


def process(proc: Path, pid: int, parent: int, *environment: str, cwd: str = "/") -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "environ").write_bytes(b"".join(f"{each}\0".encode() for each in environment))
    (folder / "stat").write_text(f"{pid} (a ) b) S {parent} 1 1 0")
    (folder / "cwd").symlink_to(cwd)


def test_a_process_belongs_to_the_attempt_that_its_environment_or_that_above_it_names(tmp_path: Path) -> None:
    mark, run = "TRAINSHED_LOG_ID=l", ("TRAINSHED_RUN_ID=r", "TRAINSHED_ATTEMPT=2")
    process(tmp_path, 1, 0)
    process(tmp_path, 10, 1, mark, cwd="/state/attempts/r/3")  # a shim
    process(tmp_path, 11, 10, mark, *run)
    process(tmp_path, 12, 11)  # has cleared its environment
    process(tmp_path, 13, 10)  # so has this worker itself, or one whose parent is gone
    process(tmp_path, 14, 1, mark)  # the agent
    process(tmp_path, 20, 1, "TRAINSHED_LOG_ID=other", *run)
    process(tmp_path, 21, 20)
    owners = Owners("l", tmp_path)
    assert {pid: owners.owner_of(pid) for pid in (11, 12, 13, 14, 20, 21, 1, 99)} == {
        11: AttemptRef("r", 2),
        12: AttemptRef("r", 2),
        13: AttemptRef("r", 3),
        14: True,
        20: False,
        21: False,
        1: False,
        99: False,
    }
    assert owners.is_there(20) and not owners.is_there(99)


def test_a_real_process_is_found_by_its_environment() -> None:
    environment = {"TRAINSHED_LOG_ID": "l", "TRAINSHED_RUN_ID": "r", "TRAINSHED_ATTEMPT": "1"}
    program = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(program, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert Owners("l").owner_of(worker.pid) == AttemptRef("r", 1)
        assert Owners("other").owner_of(worker.pid) is False
        worker.communicate(b"\n")
    assert Owners("l").owner_of(os.getpid()) is False


def test_pids_are_known_in_the_first_namespace_alone(tmp_path: Path) -> None:
    assert not Owners("l", tmp_path).knows_pids()
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").touch()
    assert not Owners("l", tmp_path).knows_pids()
    real = Path("/proc/self/ns/pid")
    assert Owners("l").knows_pids() == (real.readlink().name == "pid:[4026531836]")
