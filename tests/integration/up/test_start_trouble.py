"""A stack of which a part cannot start: `up` ends, says why and what to do, and leaves nothing behind."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_disk import small_disk
from tests.support.stack import Done, Stack, marked, until

NewStack = Callable[..., Stack]
UP = ("up", "--node", "box", "--gpus", "2", "--cpus", "4", "--memory", "4096")


def refused(stack: Stack, code: int, *, detach: bool = True, **options: Any) -> str:
    """What `up` says that does not get ready; nothing of it is left."""
    stack.environment = marked(stack.environment, stack.mark)
    words = (*UP, "--detach") if detach else UP
    done: Done = stack.trainshed(*words, code=code, **options)
    until(lambda: stack.processes() == [])
    assert done.stderr.count("Error: ") == 1, done.stderr
    assert ("the stack did not start; its log is" in done.stderr) == detach
    return done.stderr


@contextmanager
def two_ports() -> Iterator[tuple[int, socket.socket]]:
    """A port that is free, and a socket bound to the next."""
    while True:
        with closing(socket.socket()) as probe, closing(socket.socket()) as holder:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            try:
                holder.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            holder.listen()
            probe.close()
            yield port, holder
            return


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "foreground"])
def test_a_database_that_cannot_be_opened(new_stack: NewStack, detach: bool) -> None:
    stack = new_stack(start=False)
    database = stack.state_dir / "trainshed.db"
    database.mkdir(parents=True)
    text = refused(stack, 2, detach=detach)
    assert f"the read model {database} cannot be opened (is a directory)" in text
    assert f"mv {database} {database}.old" in text
    shutil.move(database, f"{database}.old")
    stack.start()  # what it says helps


def test_a_state_folder_whose_path_is_too_long(new_stack: NewStack) -> None:
    stack = new_stack(start=False)
    folder = stack.state_dir / "/".join(["e" * 200] * 3)
    text = refused(stack, 2, environment={"TRAINSHED_STATE_DIR": str(folder)})
    assert "and SQLite takes" in text
    assert "TRAINSHED_STATE_DIR=DIR trainshed up" in text


def test_a_port_that_is_taken(new_stack: NewStack) -> None:
    stack = new_stack(start=False)
    with two_ports() as (port, holder):
        listen = {"TRAINSHED_HTTP_LISTEN": f"127.0.0.1:{port}"}
        text = refused(stack, 3, environment=listen)
        assert f"127.0.0.1:{port + 1} is taken by another program" in text
        assert "TRAINSHED_HTTP_LISTEN=HOST:PORT trainshed up" in text
        holder.close()
        stack.environment |= listen
        stack.start()


@pytest.mark.parametrize("binary", ["missing", "not executable"])
def test_a_nats_server_that_cannot_be_started(new_stack: NewStack, tmp_path: Path, binary: str) -> None:
    """By a program that has the server's path changed before the command line begins."""
    stack = new_stack(start=False)
    server = tmp_path / "nats-server"
    if binary != "missing":
        server.write_text("#!/bin/sh\n")
    change = f"import sysconfig; sysconfig.get_path = lambda name: {str(tmp_path)!r}\n"
    (tmp_path / "sitecustomize.py").write_text(change)
    text = refused(stack, 3, detach=False, environment={"PYTHONPATH": str(tmp_path)})
    assert f"{server} is {binary}" in text


def test_a_disk_that_is_full_or_read_only(new_stack: NewStack, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        stack = new_stack(start=False)
        place = {"TRAINSHED_STATE_DIR": str(disk.folder / "state")}
        subprocess.run(["mount", "-o", "remount,ro", disk.folder], check=True)
        try:
            done = stack.trainshed(*UP, "--detach", code=2, environment=place)
            assert "cannot be used (read-only file system)" in done.stderr
        finally:
            subprocess.run(["mount", "-o", "remount,rw", disk.folder], check=True)
        (disk.folder / "state" / "logs").mkdir(parents=True)
        disk.fill()
        for detach in (True, False):
            text = refused(stack, 3, detach=detach, environment=place)
            assert f"the disk of {disk.folder}" in text
            assert "is full: 0 MB are free. Make room" in text
