"""Blank folders: what an earlier process left goes at the start, and nothing else does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from services.agent.folders import files
from services.agent.folders.prepared import KEPT, PreparedFolders

INTENT = files.IntentFile(
    seq=1,
    boot_id="b",
    run_id="r",
    attempt=1,
    node="box",
    host="box",
    log_id="l",
    launch={},
    run_dir="/",
    output_dir="/",
    sockets="/",
)


def test_what_an_earlier_process_left_is_removed(tmp_path: Path) -> None:
    first = PreparedFolders(tmp_path / "state", tmp_path / "runs", "box")
    first.clear()
    first.refill()
    other = tmp_path / "runs/.blank/other/1"
    other.mkdir(parents=True)
    second = PreparedFolders(tmp_path / "state", tmp_path / "runs", "box")
    second.clear()
    assert list((tmp_path / "runs/.blank/box").iterdir()) == []
    assert list((tmp_path / "state/blank").iterdir()) == []
    assert other.is_dir(), "another node's, on storage that they share"


@pytest.mark.parametrize("link", [".blank", ".blank/box"])
def test_a_link_that_a_worker_made_there_leads_to_no_deletion(tmp_path: Path, link: str) -> None:
    for victim in (tmp_path / "victim/box/1", tmp_path / "victim/1"):
        victim.mkdir(parents=True)
    place = tmp_path / "runs" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "victim")
    blanks = PreparedFolders(tmp_path / "state", tmp_path / "runs", "box")
    blanks.clear()
    assert (tmp_path / "victim/box/1").is_dir() and (tmp_path / "victim/1").is_dir()
    blanks.refill()
    assert (tmp_path / "runs/.blank/box/1").is_dir() and not place.is_symlink()


@pytest.mark.parametrize("gone", ["state/blank", "state/blank/1", "state/blank/1/1/lock", "state/attempts"])
def test_what_has_vanished_is_not_put_in_the_place_of_an_attempts_folder(tmp_path: Path, gone: str) -> None:
    blanks = PreparedFolders(tmp_path / "state", tmp_path / "runs", "box")
    blanks.clear()
    blanks.refill()
    (tmp_path / "state/attempts").mkdir()
    _take(tmp_path / gone)
    assert not blanks.put_attempt("1", INTENT, tmp_path / "state/attempts/r/1")
    assert not (tmp_path / "state/attempts/r").exists()


@pytest.mark.parametrize("gone", ["runs", "runs/.blank/box/1", "runs/.blank/box/1/attempts/1"])
def test_what_has_vanished_is_not_put_in_the_place_of_a_runs_folder(tmp_path: Path, gone: str) -> None:
    blanks = PreparedFolders(tmp_path / "state", tmp_path / "runs", "box")
    blanks.clear()
    blanks.refill()
    _take(tmp_path / gone)
    assert not blanks.put_run("1", tmp_path / "runs/r")
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    while blanks.take() is not None:
        pass
    blanks.refill()
    assert len(list((tmp_path / "runs/.blank/box").iterdir())) == KEPT


def _take(gone: Path) -> None:
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
