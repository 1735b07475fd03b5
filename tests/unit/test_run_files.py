"""What a run left on a node: its list in pages, and that nothing beside it is opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from events.types import AttemptRef
from services.agent.folders.paths import Folders
from services.agent.output import run_files
from services.agent.output.service import OutputRequest, read_range
from trainshed_client.errors import ErrorCode, TrainshedError

REF = AttemptRef("a" * 26, 1)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(tmp_path / "state", tmp_path / "runs")
    made.attempt(REF).mkdir(parents=True)
    made.make_run(REF)
    return made


def put(folders: Folders, path: str, content: str = "") -> None:
    file = folders.run(REF.run_id) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def every(folders: Folders) -> list[str]:
    found: list[str] = []
    after = None
    while True:
        page = run_files.artifact_page(folders, REF, "box", after)
        found += [one.path for one in page.artifacts]
        if (after := page.next) is None:
            return found


def read(folders: Folders, path: str) -> bytes:
    return read_range(folders, OutputRequest(REF.run_id, 1, "artifact", path=path)).data


def refusal(folders: Folders, path: str) -> ErrorCode:
    with pytest.raises(TrainshedError) as caught:
        read(folders, path)
    return caught.value.code


@pytest.mark.parametrize("page", [1, 2, 3, 100])
def test_pages_together_list_each_file_once(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(run_files, "PAGE", page)
    names = ["a/1", "a/b/2", "a/b/c/3", "a.txt", "b", "é/ü", "z/1", "z/2"]
    for name in names:
        put(folders, f"artifacts/{name}")
    (folders.run(REF.run_id) / "artifacts/empty/inside").mkdir(parents=True)
    found = every(folders)
    assert sorted(found) == sorted(names)
    assert len(found) == len(names)


def test_a_page_ends_where_an_answer_would_be_too_large(folders: Folders) -> None:
    for number in range(400):
        put(folders, f"artifacts/{'x' * 200}/{'y' * 200}/{'z' * 200}/{number:0200}")
    page = run_files.artifact_page(folders, REF, "box", None)
    assert page.next is not None
    assert sum(len(one.path) for one in page.artifacts) < 300 * 1024
    assert len(every(folders)) == 400


def test_the_list_does_not_follow_links(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret").write_text("s")
    top = folders.run(REF.run_id) / "artifacts"
    (top / "dir").symlink_to(tmp_path / "elsewhere")
    (top / "file").symlink_to(tmp_path / "elsewhere/secret")
    os.mkfifo(top / "fifo")
    assert every(folders) == []
    top.rename(top.with_name("moved"))
    top.symlink_to(tmp_path / "elsewhere")
    assert every(folders) == []
    assert refusal(folders, "secret") is ErrorCode.NOT_FOUND


def test_a_file_is_read(folders: Folders) -> None:
    put(folders, "artifacts/deep/model.bin", "weights")
    assert read(folders, "deep/model.bin") == b"weights"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../artifacts.json",
        "a/../../attempts/1/stdout.log",
        "./a",
        "a//b",
        "a/",
        "a\0b",
        ".",
    ],
)
def test_a_path_that_leads_out_is_refused(folders: Folders, path: str) -> None:
    put(folders, "artifacts/a", "x")
    put(folders, "artifacts.json", "x")
    assert refusal(folders, path) is ErrorCode.INVALID


def test_no_link_is_followed_and_no_folder_or_pipe_read(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret").write_text("s")
    top = folders.run(REF.run_id) / "artifacts"
    (top / "dir").symlink_to(tmp_path / "elsewhere")
    (top / "file").symlink_to(tmp_path / "elsewhere/secret")
    (top / "folder").mkdir()
    os.mkfifo(top / "fifo")
    for path in ("dir/secret", "file", "folder", "fifo", "nosuch", "folder/nosuch", "dir"):
        assert refusal(folders, path) is ErrorCode.NOT_FOUND, path


def test_a_file_that_is_written_to_or_replaced_is_another(folders: Folders) -> None:
    def identity() -> str | None:
        return read_range(folders, OutputRequest(REF.run_id, 1, "artifact", path="a")).file

    put(folders, "artifacts/a", "one")
    os.utime(folders.run(REF.run_id) / "artifacts/a", ns=(1, 1))
    first = identity()
    assert first is not None and identity() == first
    put(folders, "artifacts/a", "two")
    second = identity()
    assert second != first
    put(folders, "artifacts/b", "two")
    os.utime(folders.run(REF.run_id) / "artifacts/b", ns=(1, 1))
    (folders.run(REF.run_id) / "artifacts/b").rename(folders.run(REF.run_id) / "artifacts/a")
    assert identity() not in (first, second)


def test_the_folder_says_what_is_in_it(folders: Folders) -> None:
    put(folders, "artifacts/a", "12345")
    put(folders, "attempts/1/stdout.log", "123")
    found = run_files.run_folder(folders, REF, "box")
    assert (found.folder, found.exists) == (str(folders.run(REF.run_id)), True)
    assert found.output == str(folders.output(REF))
    assert found.output_bytes == {"stdout": 3, "stderr": None}
    assert (found.artifacts, found.artifacts_bytes, found.partial) == (1, 5, False)


def test_an_attempt_of_elsewhere_has_no_folder_here(folders: Folders) -> None:
    with pytest.raises(TrainshedError) as caught:
        run_files.run_folder(folders, AttemptRef("b" * 26, 1), "box")
    assert caught.value.code is ErrorCode.NOT_FOUND
