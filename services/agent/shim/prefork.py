"""The worker's process before it is the worker: forked ahead of need, it waits for a folder, takes its lock and execs.

Owns everything between the hand-over and exec, so that no other process need wake up in between; knows no limits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import stat
import sys
import time

from services.agent.shim import cgroup, files, launch, process_tree, user
from services.agent.shim.values import value
from services.failpoints import failpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

MAX_MESSAGE = 8192
_LEFT_THERE = frozenset({errno.ENXIO, errno.ELOOP, errno.EISDIR})
_ANOTHERS = frozenset({errno.EACCES, errno.EPERM})
"""What an earlier attempt may have put in the place of output, so that the node is not to blame for it; the latter where it ran
as another user."""
_FOLDER, _LEFT = b"F", b"L"
_FAILED = {launch.RUN: b"E", launch.NODE: b"N"}
_SET_HERE = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGTERM}
"""What spawner and shim ignore or take; exec alone would leave what is ignored ignored."""
_NOT_DEFAULT = tuple(
    number
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}
    if number in _SET_HERE or signal.getsignal(number) is not signal.SIG_DFL
)
"""Looked up once, at the spawner's start: to set all 64 took a millisecond of each attempt."""


@value
class Shim:
    """What an idle shim knows before it has an attempt."""

    pid: int
    start_time: int
    boot_id: str
    notify_path: str
    notify_error: str | None
    worker_cgroup: str
    """The cgroup that is for its worker; empty where none can be had."""
    memory_cgroup: str
    """The one in which the worker's memory counts, perhaps the same."""


@value
class Handed:
    """What became of a folder. `lock_fd` and `folder_fd` are -1 where its attempt is not to be run; else the shim
    holds the lock, and the waiting process has exec'd or ended, or is `coming_up`: it may hang on its way there."""

    folder: str
    folder_fd: int
    lock_fd: int
    coming_up: bool


@value
class Prefork:
    """The waiting process as its shim sees it: its pid and the socket on which it answers."""

    pid: int
    channel: socket.socket

    def handed(self, signals: int, requests: socket.socket, woken: Callable[[], None]) -> Handed | None:
        """Wait until it has exec'd or ended, or until there is a signal in `signals`, or no agent any more, while it has
        a folder. None: it ended without a folder. `woken` is called for a signal before.

        Only the channel's end wakes us, not the messages before it: what we did meanwhile would slow exec down.
        """
        poller = select.poll()
        poller.register(signals, select.POLLIN)
        poller.register(requests, 0)
        poller.register(self.channel, 0)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            over = self.channel.fileno() in ready
            if requests.fileno() in ready:
                poller.unregister(requests)
            if signals in ready and not over:  # else its end may be among them, which is for its supervisor
                os.read(signals, 4096)
                woken()
            try:
                message, fds, _flags, _address = socket.recv_fds(
                    self.channel, MAX_MESSAGE, 2, socket.MSG_DONTWAIT
                )
                break
            except BlockingIOError:  # it has no folder yet
                continue
        kind, folder = message[:1], os.fsdecode(message[1:])
        if kind == _LEFT:
            return Handed(folder, -1, -1, coming_up=False)
        if kind != _FOLDER or len(fds) != 2:
            return None
        return Handed(folder, fds[0], fds[1], coming_up=not over)

    def failure(self) -> tuple[str, str] | None:
        """Why it did not exec and whose fault that is, once the channel's end was seen; None where it has exec'd, or was
        killed before."""
        message = self.channel.recv(MAX_MESSAGE)
        if not message:
            return None
        at_fault = launch.NODE if message[:1] == _FAILED[launch.NODE] else launch.RUN
        return message[1:].decode("utf-8", "replace"), at_fault


def fork(shim: Shim, requests: socket.socket) -> Prefork:
    """Fork the process that waits on `requests` for a folder. It dies with the shim (PDEATHSIG)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        code = 127
        try:
            ours.close()
            code = _wait(shim, requests, theirs)
        finally:
            os._exit(code)
    theirs.close()
    return Prefork(pid, ours)


def _wait(shim: Shim, requests: socket.socket, channel: socket.socket) -> int:
    os.setsid()
    process_tree.die_with_parent(shim.pid)
    _default_signals()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    environment = dict(os.environ)
    me = os.getpid()
    worker_cgroup, memory_cgroup = cgroup.join(shim.worker_cgroup, shim.memory_cgroup)
    started: dict[str, object] = {
        "v": 1,
        "boot_id": shim.boot_id,
        "pid": me,
        "start_time": process_tree.start_time(me),
        "shim_pid": shim.pid,
        "shim_start_time": shim.start_time,
        "cgroup": worker_cgroup,
        "memory_cgroup": memory_cgroup,
    }
    poller = select.poll()
    poller.register(requests, 0)
    user.close_at_exec()
    _warm_up(environment)
    try:
        message = requests.recv(MAX_MESSAGE)
    except OSError:
        return 0
    # The agent died with this on its way: its successor closes or adopts what it finds, and must find no late shim.
    if not message or poller.poll(0):
        return 0
    folder = os.fsdecode(message)
    try:
        lock, raw = _take_up(folder, shim.boot_id)
    except _Left as why:
        channel.send(_LEFT + message)
        with contextlib.suppress(OSError):  # the log's disk may be full
            print(f"shim {shim.pid} leaves without exec: {folder}: {why}", file=sys.stderr, flush=True)
        return 0
    failpoint("shim.locked")
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    # The lock goes with its open file: the shim holds it from here on, we hold it until exec.
    socket.send_fds(channel, [_FOLDER + message], [here, lock])
    try:
        _become(shim, folder, raw, started, environment)
    except launch.SpawnError as error:
        channel.send(_FAILED[error.at_fault] + str(error).encode("utf-8", "replace")[: MAX_MESSAGE - 1])
    return 127


class _Left(Exception):
    """Why this attempt is not to be run."""


def _take_up(folder: str, boot_id: str) -> tuple[int, dict[str, object]]:
    """Go there, lock and look (docs/protocol.md rule 9); the lock and the raw intent. Raises _Left."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise _Left(launch.why(error)) from None
    lock = files.take_lock()
    if lock is None:
        raise _Left("no lock file, or another shim holds it")
    for name in ("exit.json", "started.json", "stop.json"):
        if os.path.lexists(name):
            raise _Left(f"{name} exists")
    raw = files.read_json("intent.json")
    if raw is None or raw.get("boot_id") != boot_id:
        raise _Left("no intent.json of this boot")
    return lock, raw


def _become(
    shim: Shim, folder: str, raw: dict[str, object], started: dict[str, object], environment: dict[str, str]
) -> NoReturn:
    """Write started.json, then exec. Raises SpawnError."""
    if shim.notify_error is not None:
        raise launch.SpawnError(shim.notify_error, launch.NODE)
    try:
        intent = launch.read_intent(raw)
        if intent.refusal is not None:
            raise launch.SpawnError(intent.refusal)
        if intent.user is not None:
            os.chown(shim.notify_path, intent.user.uid, intent.user.gid, follow_symlinks=False)
        with user.acting_as(intent.user):
            command = launch.command(intent, environment, folder, shim.notify_path)
            for fd, name in ((1, "stdout.log"), (2, "stderr.log")):
                left_there = _LEFT_THERE if intent.user is None else _LEFT_THERE | _ANOTHERS
                _append_to(f"{intent.output_dir}/{name}", fd, left_there)
        if intent.memory_mb > 0:
            size = intent.memory_mb << 20
            started["memory_enforced"] = cgroup.limit_memory(str(started["memory_cgroup"]), size)
        started["started_at"] = time.time()
        files.write_json("started.json", started, durable=False)
        failpoint("shim.started_written")
    except (KeyError, TypeError, ValueError) as error:
        raise launch.SpawnError(f"intent.json: {type(error).__name__}: {error}") from None
    except OSError as error:
        raise launch.SpawnError(f"{folder}: {launch.why(error)}", launch.NODE) from None
    _exec(command, intent, shim.pid)


def _append_to(path: str, fd: int, left_there: frozenset[int]) -> None:
    try:
        # Not blocking: an earlier attempt may have left a pipe without a reader in its place.
        output = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        at_fault = launch.RUN if error.errno in left_there else launch.NODE
        raise launch.SpawnError(f"{path}: {launch.why(error)}", at_fault) from None
    if not stat.S_ISREG(os.fstat(output).st_mode):
        raise launch.SpawnError(f"{path}: not a file")
    os.set_blocking(output, True)
    os.dup2(output, fd)
    os.close(output)


def _exec(command: launch.Command, intent: launch.ShimIntent, shim: int) -> NoReturn:
    try:
        user.become(intent.user, shim, no_new_privs=intent.no_new_privs)
    except OSError as error:
        named = intent.user.name if intent.user is not None else "its agent's user"
        raise launch.SpawnError(
            f"the worker cannot run as {named}: {launch.why(error)}", launch.NODE
        ) from None
    try:
        os.chdir(command.working_dir)
    except OSError as error:
        text = f"working_dir {command.working_dir}: {launch.why(error)}"
        raise launch.SpawnError(text, launch.fault(error)) from None
    at_fault = launch.RUN
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execve(command.program, command.argv, command.environment)
    except OSError as error:
        at_fault = launch.fault(error)
        match error.errno:
            case errno.ENOENT:
                cause = "no such file, or the interpreter that its #! line names does not exist"
            case errno.ENOEXEC:
                cause = "not a program that this machine can run (is its #! line missing?)"
            case errno.E2BIG:
                cause = "arguments and environment are too long for this system"
            case _:
                cause = launch.why(error)
    except (ValueError, TypeError, MemoryError) as error:
        cause = f"cannot exec: {type(error).__name__}"  # its text may quote the environment
    raise launch.SpawnError(f"{command.program}: {cause}", at_fault)


def _default_signals() -> None:
    """Every signal at its default and none blocked, whatever Python or whoever started the agent had set. SIGPIPE
    follows at exec: until then a closed socket is an error, not an end."""
    signal.set_wakeup_fd(-1)
    for number in _NOT_DEFAULT:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _warm_up(environment: dict[str, str]) -> None:
    """Go through the motions once: after a fork, what runs for the first time pays for every page that it touches."""
    sample = launch.SAMPLE
    files.take_lock("")
    os.path.lexists("")
    files.read_json("")
    with contextlib.suppress(launch.SpawnError, OSError):
        intent = launch.read_intent(files.parse(sample))
        os.execve("", ["x"], launch.command(intent, environment, "/", "/").environment)
