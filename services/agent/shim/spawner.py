"""The pre-warmed process that shims are forked from: `python -P -m services.agent.shim.spawner FD LOOKS SOCKETS CGROUPS MEMORY_CGROUPS OPEN_FILES`.

Owns a pool of idle shims that wait on one socket for an attempt's folder; knows no attempt, and ends with its agent.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
import sys

from services.agent.shim import process_tree, supervise

POOL = 2
"""Idle shims kept waiting, each with its worker's process forked as well."""
REFILL_AFTER_S = 0.003
"""A new shim is forked this long after one was taken while others wait, so as not to compete with the worker's start."""
LATE_POOL = 16
"""So many at most while a folder waits and none of them takes it: they may hang, each before its worker's exec. The next
look (the agent has one for as long as a launch is late) finds those that do, and they count no more."""


def main() -> None:
    """Keep the pool filled until the agent closes its end of the socket."""
    requests, looks, places = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3:6]
    _limit_open_files(int(sys.argv[6]))
    requests.set_inheritable(False)  # passed to us, but not to any worker
    os.set_inheritable(looks, False)
    taken_read, taken_write = os.pipe()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    wakeups = _child_wakeups()
    spare = (taken_read, wakeups, looks)
    gc.collect()
    gc.freeze()  # what is here now is never collected, so its pages stay shared with the shims
    idle: set[int] = set()
    while len(idle) < POOL:
        idle.add(_fork(requests, taken_write, places, spare))
    poller = select.poll()
    poller.register(requests.fileno(), 0)  # only its end is ours to see; the idle shims read it
    poller.register(taken_read, select.POLLIN)
    poller.register(wakeups, select.POLLIN)
    poller.register(looks, select.POLLIN)
    waiting = select.poll()
    waiting.register(requests.fileno(), select.POLLIN)
    enough = POOL
    while True:
        wait_ms = None if len(idle) >= enough else int(REFILL_AFTER_S * 1000) if idle else 0
        ready = {fd for fd, _ in poller.poll(wait_ms)}
        if requests.fileno() in ready:
            return  # busy shims live on, idle ones see the same end
        if taken_read in ready:
            for (pid,) in supervise.TAKEN.iter_unpack(os.read(taken_read, supervise.TAKEN.size * 256)):
                idle.discard(pid)
        if wakeups in ready:
            os.read(wakeups, 4096)
            idle -= {pid for pid, _ in process_tree.reap()[0]}
        if looks in ready and os.read(looks, 4096):
            for pid in idle:
                os.kill(pid, signal.SIGUSR2)
            enough = LATE_POOL
        if enough > POOL and not waiting.poll(0):
            enough = POOL
        if len(idle) < enough and (not ready or not idle):
            idle.add(_fork(requests, taken_write, places, spare))


def _limit_open_files(soft: int) -> None:
    """The agent raised its own limit; shims and workers have the one that it was started with."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _child_wakeups() -> int:
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    return read_fd


def _fork(requests: socket.socket, taken_fd: int, places: list[str], spare: tuple[int, ...]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            for fd in spare:
                os.close(fd)
            supervise.run(requests, taken_fd, *places)
        finally:
            os._exit(1)
    return pid


if __name__ == "__main__":
    main()
