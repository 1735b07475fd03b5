"""Which files are the code of a run, in which order and up to where, and what a node says of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.agent.attempts import code_looks
from services.agent.attempts.code_looks import CodeLooks, compared
from trainshed_client import code
from trainshed_client.code import code_of, provenance_of, read_code, root_of
from trainshed_client.errors import TrainshedError
from trainshed_client.provenance import Code, Provenance
from trainshed_client.statuses import CodeSeen

RUN = "k" * 26


def write(folder: Path, *paths: str, text: str = "x") -> None:
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def git(folder: Path, *words: str) -> None:
    me = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "protocol.file.allow=always")
    subprocess.run(["git", "-C", str(folder), *me, *words], check=True, capture_output=True)


def digest(folder: Path, *ignore: str) -> Code:
    found = read_code(str(folder), ignore)
    assert found is not None
    return found


@pytest.fixture(params=["git", "no git"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    write(folder, "train.py", "lib/net.py", "conf/ppo.yaml")
    if request.param == "git":
        git(folder, "init", "-q")
    return folder


def test_the_digest_can_be_made_by_anybody(project: Path) -> None:
    parts = b"".join(
        path.encode() + b"\0" + hashlib.sha256(b"x").digest()
        for path in ("train.py", "conf/ppo.yaml", "lib/net.py")
    )
    assert digest(project) == Code(hashlib.sha256(parts).hexdigest())
    assert code_of(project / "lib" / "..") == {"sha256": digest(project).sha256, "partial": False}


@pytest.mark.parametrize(
    "path",
    [
        "train.py",
        "new.py",
        "lib/Net.R",
        "conf/ppo.yaml",
        "pyproject.toml",
        "kernel.cu",
        "Makefile",
        "sub/deep/x.sh",
        "a.ipynb",
    ],
)
def test_a_program_file_that_is_edited_or_added_is_other_code(project: Path, path: str) -> None:
    before = digest(project)
    write(project, path, text="edited")
    assert digest(project) != before


@pytest.mark.parametrize(
    "path",
    [
        *(
            "results.json",
            "log.txt",
            "metrics.csv",
            "model.pt",
            "events.out.tfevents.1",
            "plot.png",
            "notes.md",
        ),
        *(
            ".hidden/x.py",
            "__pycache__/x.py",
            "node_modules/a/x.js",
            "lightning_logs/version_0/hparams.yaml",
            "lib/wandb/x.py",
        ),
        *("mlruns/0/meta.yaml", f"runs/{RUN}/x.py", "outputs/2026-11-29/.hydra/config.yaml", "data", ".env"),
    ],
)
def test_results_and_what_is_not_the_projects_own_are_not(project: Path, path: str) -> None:
    before = digest(project)
    write(project, path, text="#!/bin/sh")
    assert digest(project) == before


@pytest.mark.parametrize("mark", ["pyvenv.cfg", "conda-meta/history"])
def test_an_environment_inside_the_project_does_not_count(project: Path, mark: str) -> None:
    before = digest(project)
    write(project, f"env/{mark}", "env/lib/module.py", "env/tool.py")
    assert digest(project) == before


def test_a_script_without_an_ending_counts_where_it_is_one(project: Path) -> None:
    before = digest(project)
    write(project, "run", text="#!/bin/sh\necho 1\n")
    assert digest(project) == before
    (project / "run").chmod(0o755)
    script = digest(project)
    assert script != before
    write(project, "run", text="#!/bin/sh\necho 2\n")
    assert digest(project) != script
    write(project, "run", text="\x7fELF")
    assert digest(project) == before


def test_where_a_file_lies_and_what_is_in_it_are_kept_apart(tmp_path: Path) -> None:
    write(tmp_path / "one", "a.py", text="b.py")
    write(tmp_path / "two", "b.py", text="a.py")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")


def test_a_commit_and_an_ignored_file_make_no_other_code(tmp_path: Path) -> None:
    write(tmp_path, "train.py", "generated.py", ".gitignore", text="generated.py\n")
    git(tmp_path, "init", "-q")
    before = digest(tmp_path)
    git(tmp_path, "add", ".")
    assert digest(tmp_path) == before
    git(tmp_path, "commit", "-qm", "x")
    write(tmp_path, "generated.py", text="other")
    assert digest(tmp_path) == before
    (tmp_path / "train.py").unlink()  # tracked still
    assert read_code(str(tmp_path)) is None


def test_repositories_in_the_repository_count_as_git_has_them(tmp_path: Path) -> None:
    project, library = tmp_path / "project", tmp_path / "library"
    for folder in (project, library, project / "nested"):
        write(folder, "a.py", ".gitignore", text="ignored.py\n")
        git(folder, "init", "-q")
        git(folder, "add", ".")
        git(folder, "commit", "-qm", "x")
    git(project, "submodule", "add", "-q", str(library), "vendored")
    before = digest(project)
    for inner in ("nested", "vendored"):
        write(project, f"{inner}/ignored.py")
        assert digest(project) == before
        write(project, f"{inner}/a.py", text="edited")
        before, was = digest(project), before
        assert before != was


def test_without_git_installed_a_repository_is_read_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "train.py")
    git(tmp_path, "init", "-q")
    whole = digest(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert digest(tmp_path) == Code(whole.sha256, partial=True)
    assert provenance_of(str(tmp_path)) == Provenance(folder=str(tmp_path))


def test_a_git_that_hangs_is_no_other_code_but_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "train.py")
    (tmp_path / ".git").mkdir()
    hanging = tmp_path / "bin" / "git"
    write(tmp_path, "bin/git", text="#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", f"{hanging.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(code, "GIT_WITHIN_S", 0.1)
    with pytest.raises(TrainshedError, match="--no-code"):
        read_code(str(tmp_path))


def test_settings_of_a_repository_start_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "train.py")
    git(tmp_path, "init", "-q")
    git(tmp_path, "config", "core.fsmonitor", f"touch {tmp_path}/started; false")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a git hook
    assert not digest(tmp_path).partial
    provenance_of(str(tmp_path))
    assert not (tmp_path / "started").exists()


def test_links_out_of_the_folder_count_by_where_they_lead(project: Path, tmp_path: Path) -> None:
    write(tmp_path / "outside", "x.py", "more/y.py")
    before = digest(project)
    (project / "link.py").symlink_to(tmp_path / "outside" / "x.py")
    (project / "folder").symlink_to(tmp_path / "outside" / "more")
    linked = digest(project)
    assert linked != before
    write(tmp_path / "outside", "x.py", "more/y.py", text="edited")
    assert digest(project) == linked
    (project / "inside.py").symlink_to("train.py")
    (project / "loop.py").symlink_to("loop.py")
    os.mkfifo(project / "pipe.py")
    assert not digest(project).partial


def test_what_cannot_be_read_makes_it_a_part(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        if path.endswith("net.py"):
            raise PermissionError(path)
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    assert digest(project).partial


def test_the_first_files_and_bytes_count_and_never_a_file_cut(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "MAX_FILES", 3)
    whole = digest(project)
    assert not whole.partial
    write(project, "zoo/deep/last.py")
    part = digest(project)
    assert part == Code(whole.sha256, partial=True)
    write(project, "zoo/deep/last.py", text="edited")
    assert digest(project) == part
    (project / "zoo/deep/last.py").unlink()
    monkeypatch.setattr(code, "MAX_BYTES", 2)  # of three files of one byte
    part = digest(project)
    assert part.partial
    write(project, "train.py", text="too long")  # what is too long is passed over, the others count
    assert digest(project).sha256 != part.sha256


def test_too_many_names_make_it_a_part_and_the_upper_levels_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "train.py", *(f"data/{n}/{m}.txt" for n in range(5) for m in range(5)))
    whole = digest(tmp_path)
    monkeypatch.setattr(code, "MAX_ENTRIES", 10)
    assert digest(tmp_path) == Code(whole.sha256, partial=True)


def test_globs_leave_out_paths_names_and_folders(project: Path) -> None:
    before = digest(project)
    write(project, "gen/a.py", "lib/gen_b.py", "c.ipynb")
    assert digest(project, "gen/", "gen_*.py", "*.ipynb") == before
    assert digest(project, "./gen/*", "lib/gen_*", "c.ipynb") == before
    assert digest(project, "other") != before


def test_the_folder_is_the_git_root_but_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    write(home, "plain/x.py", "repository/deep/x.py", ".git/config")
    (home / "repository" / ".git").mkdir()
    monkeypatch.setenv("HOME", str(home))
    assert root_of(home / "repository" / "deep") == str(home / "repository")
    assert root_of(home / "plain") == str(home / "plain")
    assert [root_of(one) for one in (home, "/", home / "absent", home / "plain/x.py")] == [None] * 4
    assert code_of(home) is None


def test_where_it_stands_in_git(tmp_path: Path) -> None:
    write(tmp_path, "train.py")
    folder = str(tmp_path)
    assert provenance_of(folder, ["x"]) == Provenance(folder=folder, ignore=("x",))
    git(tmp_path, "init", "-q")
    assert provenance_of(folder) == Provenance(folder=folder, dirty=True)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    clean = provenance_of(folder)
    assert clean.commit is not None and len(clean.commit) == 40 and clean.dirty is False
    write(tmp_path, "results.json", "out/log.txt")
    assert provenance_of(folder) == clean
    write(tmp_path, "new.py")
    assert provenance_of(folder).dirty and provenance_of(folder, ["new.py"]).dirty is False
    (tmp_path / "new.py").unlink()
    write(tmp_path, "train.py", text="edited")
    assert provenance_of(folder).dirty


# --- the node's look ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("submitted", "found", "seen"),
    [
        (Code("a"), Code("a"), CodeSeen.SAME),
        (Code("a"), Code("b"), CodeSeen.CHANGED),
        (Code("a", partial=True), Code("a", partial=True), CodeSeen.UNKNOWN),
        (Code("a", partial=True), Code("b"), CodeSeen.UNKNOWN),
        (Code("a"), Code("b", partial=True), CodeSeen.UNKNOWN),
    ],
)
def test_parts_tell_nothing(submitted: Code, found: Code, seen: CodeSeen) -> None:
    assert compared(submitted, found) is seen


def launch(folder: Path, **more: Any) -> dict[str, Any]:
    return {"code": {"sha256": digest(folder).sha256}, "code_folder": str(folder), **more}


async def test_a_look_finds_the_folder_as_it_was_told_of_or_by_the_working_dir(project: Path) -> None:
    looks, asked = CodeLooks(), launch(project)
    assert await looks.look(asked) is CodeSeen.SAME
    by_working_dir = {"code": asked["code"], "working_dir": str(project)}
    assert await looks.look(by_working_dir) is CodeSeen.SAME
    assert await looks.look({"code": asked["code"]}) is CodeSeen.UNKNOWN
    assert await looks.look({**asked, "code_folder": str(project / "absent")}) is CodeSeen.UNKNOWN
    assert await looks.look({"code": "?"}) is CodeSeen.UNKNOWN
    write(project, "generated.py")
    assert await looks.look(asked) is CodeSeen.CHANGED
    assert await looks.look({**asked, "code_ignore": ["generated.py"]}) is CodeSeen.SAME
    for file in project.rglob("*.*"):
        if ".git" not in file.parts:
            file.unlink()
    assert await looks.look(asked) is CodeSeen.CHANGED


async def test_looks_that_begin_during_one_share_the_next_and_see_what_was_written_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "train.py")
    looks, asked = CodeLooks(), launch(tmp_path)
    reads: list[Code | None] = []
    begun, go_on = threading.Event(), threading.Event()
    real: Callable[..., Code | None] = read_code

    def slow(folder: str, ignore: tuple[str, ...], **_: object) -> Code | None:
        reads.append(real(folder, ignore))
        begun.set()
        go_on.wait(10)
        return reads[-1]

    monkeypatch.setattr(code_looks, "read_code", slow)
    first = asyncio.create_task(looks.look(asked))
    await asyncio.to_thread(begun.wait, 10)
    write(tmp_path, "train.py", text="edited")
    others = [asyncio.create_task(looks.look(asked)) for _ in range(5)]
    await asyncio.sleep(0)
    go_on.set()
    assert await first is CodeSeen.SAME
    assert await asyncio.gather(*others) == [CodeSeen.CHANGED] * 5
    assert len(reads) == 2
    assert await looks.look(asked) is CodeSeen.CHANGED
    assert len(reads) == 3
