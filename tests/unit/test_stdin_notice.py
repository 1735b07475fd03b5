"""Whether data waits on a command's standard input, without a byte of it being read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from services.cli.stdin_notice import data_waits


def test_data_in_a_pipe_waits_and_stays_there() -> None:
    reading, writing = os.pipe()
    assert not data_waits(reading)
    os.write(writing, b"hello")
    assert data_waits(reading)
    os.close(writing)
    assert data_waits(reading)
    assert os.read(reading, 100) == b"hello"
    assert not data_waits(reading)  # at its end
    os.close(reading)


def test_a_file_has_data_up_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 300)
    with open(tmp_path / "file", "rb", buffering=0) as file:
        assert data_waits(file.fileno())
        file.seek(300)
        assert not data_waits(file.fileno())


def test_a_socket_has_what_was_sent() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert not data_waits(one.fileno())
        other.send(b"x")
        assert data_waits(one.fileno())


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_a_device_has_none(path: str) -> None:
    with open(path, "rb") as device:
        assert not data_waits(device.fileno())


def test_a_terminal_has_none_and_neither_has_what_is_closed() -> None:
    main, terminal = os.openpty()
    os.write(main, b"typed\n")
    assert not data_waits(terminal)
    os.close(main)
    os.close(terminal)
    assert not data_waits(terminal)
