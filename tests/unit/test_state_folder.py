"""A state folder that others may enter is closed to them, with a log line; one that everybody shares is left alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from services import logging
from services.settings import LogFormat, LogLevel
from services.state_folder import close_to_others


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def log_lines() -> None:
    logging.configure(LogFormat.JSON, LogLevel.INFO)


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o777])
def test_others_are_shut_out_once_and_a_line_tells_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(mode)
    close_to_others(folder)
    assert mode_of(folder) == 0o700
    assert f"'was': '{mode:04o}'" in caplog.text
    caplog.clear()
    close_to_others(folder)
    assert caplog.text == ""


def test_a_folder_that_is_missing_is_left_to_who_makes_it(tmp_path: Path) -> None:
    close_to_others(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_that_everybody_shares_stays_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    close_to_others(folder)
    assert mode_of(folder) == 0o1777
    assert "TRAINSHED_STATE_DIR" in caplog.text


def test_a_folder_of_another_owner_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o755)

    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    close_to_others(folder)
    assert "chmod 700 it" in caplog.text
