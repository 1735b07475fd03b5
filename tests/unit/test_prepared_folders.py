"""Blank folders: what an earlier process left goes at the start, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.agent.folders.prepared import PreparedFolders


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
