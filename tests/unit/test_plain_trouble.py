"""Trouble of the machine is one line with what to do and an exit code that is no worker's."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import nats.errors
import pytest

from events.log import UnknownOutcome
from services.cli import main as command
from services.plain_trouble import plain
from tests.unit.test_cli_main import ROOT
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError
from trainshed_client.os_errors import cause

BAD, PASSING = ErrorCode.INVALID, ErrorCode.UNAVAILABLE
START = "from trainshed_client.launch import main; main()"


def failed(number: int, *paths: str) -> OSError:
    return OSError(number, os.strerror(number), *paths[:1], *((None, paths[1]) if len(paths) > 1 else ()))


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_the_system_is_text_without_its_number(number: int, tmp_path: Path) -> None:
    for error in (failed(number), failed(number, str(tmp_path / "x")), failed(number, "a", "b")):
        trouble = plain(error)
        assert trouble is not None
        for text in (str(trouble), cause(error)):
            assert "Errno" not in text and "\n" not in text
        assert trouble.exit_code in (ExitCode.BAD_INPUT, ExitCode.NO_SERVICE)
        # a sentence on what was wrong, and one on what to do
        assert re.fullmatch(r".+\w.+[.?] [A-Z].+", str(trouble)), str(trouble)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (failed(errno.EACCES, "/x/y"), BAD, "/x/y: permission denied"),
        (failed(errno.ENOTDIR, "/x/y"), BAD, "ls -ld /x/y"),
        (failed(errno.EIO, "/x/y"), PASSING, "df /x/y"),
        (failed(errno.EMFILE), PASSING, f"may have {resource.getrlimit(resource.RLIMIT_NOFILE)[0]};"),
        (failed(errno.EMFILE), PASSING, "ulimit -n"),
        (ConnectionResetError("Connection lost"), PASSING, "(connection lost). Is it up? trainshed up"),
        (nats.errors.ConnectionClosedError(), PASSING, "(connection closed). Is it up? trainshed up"),
        (UnknownOutcome("no answer"), PASSING, "(no answer). Is it up? trainshed up"),
        (TimeoutError(), PASSING, "(no answer in time)"),
        (ExceptionGroup("", [ExceptionGroup("", [ConnectionRefusedError()])]), PASSING, "trainshed up"),
        (MemoryError(), PASSING, "free -m"),
        (RuntimeError("can't start new thread"), PASSING, "ulimit -u"),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "x"), BAD, "not UTF-8, and so no text: a\\xff"),
    ],
)
def test_what_it_says_and_what_it_counts_as(error: BaseException, code: ErrorCode, says: str) -> None:
    trouble = plain(error)
    assert trouble is not None
    assert trouble.code is code
    assert says in str(trouble)


def test_an_error_for_people_stays_as_it_is_and_a_fault_of_the_program_is_none() -> None:
    refusal = TrainshedError(ErrorCode.NOT_FOUND, "no run")
    assert plain(ExceptionGroup("", [refusal])) is refusal
    for fault in (AssertionError(), KeyError("x"), RuntimeError("x"), asyncio.QueueFull()):
        assert plain(fault) is None


def test_a_path_of_a_setting_names_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRAINSHED_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TRAINSHED_RUNS_DIR", str(tmp_path / "shared" / "runs"))
    for path, variable in (
        ("state/open", "TRAINSHED_STATE_DIR"),
        ("shared", "TRAINSHED_RUNS_DIR"),
        ("shared/runs/x", "TRAINSHED_RUNS_DIR"),
        ("elsewhere", None),
    ):
        text = str(plain(failed(errno.EACCES, str(tmp_path / path))))
        assert (f"{variable}=DIR" in text) if variable else ("DIR" not in text), text


def test_a_full_disk_is_named_with_what_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def disk(blocks: int, files: int) -> None:
        found = os.statvfs_result((4096, 4096, 9, blocks, blocks, 9, files, files, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _: found)

    error = failed(errno.ENOSPC, str(tmp_path / "not" / "made" / "yet"))
    disk(blocks=512, files=9)
    assert cause(error) == f"the disk of {tmp_path} is full: 2 MB are free"
    assert str(plain(error)).endswith(f"Make room first; how much is left: df -h {tmp_path}")
    disk(blocks=512, files=0)
    assert cause(error) == f"the disk of {tmp_path} is full: it can hold no more files (inodes)"
    # without a path: what is written to and has no room
    monkeypatch.setenv("TRAINSHED_STATE_DIR", str(tmp_path))
    disk(blocks=0, files=9)
    assert cause(failed(errno.ENOSPC)).startswith("the disk of /")
    disk(blocks=512, files=9)
    assert cause(failed(errno.ENOSPC)) == "the disk is full"


def test_a_deleted_folder_to_be_in_is_called_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        os.getcwd()
    monkeypatch.chdir(tmp_path)
    assert "deleted meanwhile" not in str(plain(caught.value))
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        trouble = plain(caught.value)
    finally:
        os.chdir(tmp_path)
    assert trouble is not None and trouble.code is BAD
    assert "deleted meanwhile" in str(trouble)


def test_a_fault_of_the_program_ends_with_its_traceback_and_no_workers_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(_: object) -> int:
        raise AssertionError("not foreseen")

    monkeypatch.setattr(command, "_invoke", fault)
    assert command.run(["ls"]) == ExitCode.NO_SERVICE
    err = capsys.readouterr().err
    assert "Traceback" in err and "AssertionError: not foreseen" in err and "please report it" in err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("words", "code"), [("--help", 0), ("config", 0), ("ls", 3), ("nosuch", 2)])
def test_closed_standard_streams_change_nothing_else(
    closed: str, words: str, code: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -P -c "$1" {words} {closed}', sys.executable, START],
        env={**os.environ, "TRAINSHED_STATE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_output_on_a_full_disk_is_one_line() -> None:
    start = (sys.executable, "-P", "-c", START)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*start, "config"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False
        )
        assert done.returncode == ExitCode.NO_SERVICE
        assert "is full" in done.stderr and len(done.stderr.splitlines()) <= 2
        to_stderr = subprocess.run(
            [*start, "ls", "--nats", "127.0.0.1:1"], stderr=full, timeout=30, check=False
        )
        assert to_stderr.returncode == ExitCode.NO_SERVICE


@pytest.mark.parametrize(
    "start", [("-c", START), ("-c", "import runpy; runpy.run_module('services.cli', run_name='__main__')")]
)
def test_an_interrupt_while_the_command_is_loaded_leaves_no_traceback(
    start: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-P", *start, "ls"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        timeout=30,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_what_says_already_what_to_do_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def full(_: object) -> int:
        raise failed(errno.ENOSPC, str(tmp_path / "x"))

    monkeypatch.setattr(command, "_invoke", full)
    assert command.run(["ls"]) == ExitCode.NO_SERVICE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: the disk of ") and line.endswith(f"df -h {tmp_path}")
