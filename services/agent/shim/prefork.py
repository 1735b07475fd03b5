"""The worker's process before it is the worker: forked ahead of need, it waits for its command and execs it.

Owns what happens between fork and exec; knows no attempt, no limits and no file of ours but the two output files.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import signal
from dataclasses import dataclass

from services.agent.shim import files, process_tree
from services.agent.shim.launch import Command, why

_LENGTH = 8
STATUS_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Prefork:
    """A forked, waiting worker: its pid, its start time in ticks, and the two pipes between it and its shim."""

    pid: int
    start_time: int
    release_fd: int
    status_fd: int

    def release(self, command: Command, stdout: str, stderr: str) -> None:
        """Hand the command over; the process execs it. Nothing of it is ever written to a file. Raises BrokenPipeError
        where the waiting process is gone."""
        payload = pack(command, (stdout, stderr))
        files.write_whole(self.release_fd, len(payload).to_bytes(_LENGTH, "little") + payload)
        os.close(self.release_fd)

    def status(self) -> str | None:
        """Wait for exec: None when it has happened (the pipe's other end closed with it), else why it failed."""
        message = _read_all(self.status_fd, STATUS_BYTES)
        return message.decode("utf-8", "replace") or None

    def dismiss(self) -> None:
        """End the waiting process; it never execs anything."""
        os.close(self.release_fd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def pack(command: Command, outputs: tuple[str, str]) -> bytes:
    """The command as it goes through the pipe."""
    return marshal.dumps(
        (command.program, command.argv, command.environment, command.working_dir, *outputs)
    )


def prefork() -> Prefork:
    """Fork a process that waits for its command. It dies with this one (PDEATHSIG)."""
    release_read, release_write = os.pipe()
    status_read, status_write = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 127
        try:
            os.close(release_write)
            os.close(status_read)
            code = _become(parent, release_read, status_write)
        finally:
            os._exit(code)
    os.close(release_read)
    os.close(status_write)
    return Prefork(pid, process_tree.start_time(pid), release_write, status_read)


def _become(parent: int, release_fd: int, status_fd: int) -> int:
    os.setsid()
    process_tree.die_with_parent(parent)
    _default_signals()
    kept = sorted({release_fd, status_fd})
    os.closerange(3, kept[0])
    os.closerange(kept[0] + 1, kept[1])
    os.closerange(kept[1] + 1, 4096)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    marshal.loads(marshal.dumps(("a", ["b"], dict(os.environ), "c", "d", "e")))
    for fd in (1,2):
        null=os.open(os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.close(null)
    os.chdir(".")
    try:
        os.execve("/", ["x"], dict(os.environ))
    except OSError: pass
    header = _read_all(release_fd, _LENGTH)
    if len(header) < _LENGTH:
        return 0  # dismissed
    import time
    global T
    T=[time.monotonic_ns()]
    payload = _read_all(release_fd, int.from_bytes(header, "little"))
    try:
        program, argv, environment, working_dir, stdout, stderr = marshal.loads(payload)
        _exec(program, argv, environment, working_dir, stdout, stderr)
    except (_Refused, OSError, ValueError, TypeError, MemoryError) as error:
        # An exception of exec may quote the environment, so only what we worded ourselves is passed on.
        message = str(error) if isinstance(error, _Refused) else f"cannot exec: {type(error).__name__}"
        os.write(status_fd, message.encode("utf-8", "replace")[:STATUS_BYTES])
    return 127


class _Refused(Exception):
    """Why there is no exec, in words for a person."""


def _exec(
    program: str, argv: list[str], environment: dict[str, str], working_dir: str, stdout: str, stderr: str
) -> None:
    import time
    T.append(time.monotonic_ns())
    for fd, path in ((1, stdout), (2, stderr)):
        try:
            output = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise _Refused(f"{path}: {why(error)}") from None
        os.dup2(output, fd)
        os.close(output)
    try:
        os.chdir(working_dir)
    except OSError as error:
        raise _Refused(f"working_dir {working_dir}: {why(error)}") from None
    T.append(time.monotonic_ns())
    x=os.open("/tmp/h1/ch",os.O_WRONLY|os.O_APPEND|os.O_CREAT)
    os.write(x,("CH %d %s\n"%(T[0]//1000," ".join("+%d"%((b-a)//1000) for a,b in zip(T,T[1:])))).encode()); os.close(x)
    T.append(time.monotonic_ns())
    try:
        os.execve(program, argv, environment)
    except OSError as error:
        match error.errno:
            case errno.ENOENT:
                cause = "no such file, or the interpreter that its #! line names does not exist"
            case errno.ENOEXEC:
                cause = "not a program that this machine can run (is its #! line missing?)"
            case errno.E2BIG:
                cause = "arguments and environment are too long for this system"
            case _:
                cause = why(error)
        raise _Refused(f"{program}: {cause}") from None


def _default_signals() -> None:
    """Every signal at its default and none blocked, whatever Python or whoever started the agent had set."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _read_all(fd: int, size: int) -> bytes:
    """`size` bytes, or what there is before the end."""
    chunks: list[bytes] = []
    while size > 0:
        chunk = os.read(fd, min(size, 1 << 20))
        if not chunk:
            break
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)
