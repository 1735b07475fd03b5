"""A process becomes its worker's user: all of it, for good, and dies with its shim as before."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from services.agent.shim import process_tree, user
from services.agent.shim.user import ShimUser

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")

DAEMON = pwd.getpwnam("daemon")
USER = ShimUser(name="daemon", uid=DAEMON.pw_uid, gid=DAEMON.pw_gid, groups=(1, 8), home="/", shell="/bin/sh")
OF_ROOT = [0, 4, 42]
PR_GET_PDEATHSIG = 2


def in_a_child(work: Callable[[], object]) -> object:
    """What ``work`` returns in a process of root's that has groups, and keeps a descriptor open over exec."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        answer: object = None
        try:
            os.setgroups(OF_ROOT)
            answer = work()
        except BaseException as error:  # noqa: BLE001 (whatever it is, the test shows it)
            answer = repr(error)
        finally:
            os.write(write, json.dumps(answer).encode())
            os._exit(0)
    os.close(write)
    with open(read) as file:
        answer = json.load(file)
    os.waitpid(child, 0)
    return answer


def status() -> dict[str, list[str]]:
    """Who this process is, as the kernel has it."""
    lines = (line.partition(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    return {
        name: value.split()
        for name, _, value in lines
        if name in ("Uid", "Gid", "Groups", "CapEff", "NoNewPrivs", "Umask")
    }


@pytest.mark.parametrize("no_new_privs", [False, True])
def test_nothing_of_root_is_left(no_new_privs: bool) -> None:
    def become() -> object:
        parent = os.getppid()
        process_tree.die_with_parent(parent)
        user.become(USER, parent, no_new_privs=no_new_privs)
        return status()

    # Files of /proc/self are root's until the next exec.
    assert in_a_child(become) == {
        "Umask": ["0077"],
        "Uid": ["1"] * 4,
        "Gid": ["1"] * 4,
        "Groups": ["1", "8"],
        "CapEff": ["0" * 16],
        "NoNewPrivs": [str(int(no_new_privs))],
    }


def test_it_dies_with_its_shim_as_before() -> None:
    """The kernel forgets the signal where a process becomes another's."""

    def become() -> object:
        parent = os.getppid()
        process_tree.die_with_parent(parent)
        user.become(USER, parent, no_new_privs=True)
        number = ctypes.c_int()
        ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0)
        return number.value

    assert in_a_child(become) == signal.SIGKILL


def test_for_a_moment_it_looks_as_that_user_and_is_root_again() -> None:
    def act() -> object:
        with user.acting_as(USER):
            inside = (
                os.getresuid(),
                os.getegid(),
                os.getgroups(),
                os.access("/etc/shadow", os.R_OK, effective_ids=True),
            )
        return [inside, (os.getresuid(), os.getegid(), os.getgroups())]

    assert in_a_child(act) == [[[0, 1, 0], 1, [1, 8], False], [[0, 0, 0], 0, OF_ROOT]]


def test_without_a_user_it_stays_who_it_is() -> None:
    def become() -> object:
        user.become(None, os.getppid(), no_new_privs=True)
        return (os.getresuid(), os.getgroups(), status()["NoNewPrivs"])

    assert in_a_child(become) == [[0, 0, 0], OF_ROOT, ["1"]]


def test_a_descriptor_that_was_left_open_is_closed_at_exec() -> None:
    def close() -> object:
        left = os.open("/etc/shadow", os.O_RDONLY)
        os.set_inheritable(left, True)
        user.close_at_exec()
        return os.get_inheritable(left)

    assert in_a_child(close) is False
