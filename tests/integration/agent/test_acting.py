"""Looking as a worker's user, in one thread: what he may not read is not read, and every other thread stays root's."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.agent.attempts.code_looks import CodeLooks
from services.agent.folders.acting import acting_as
from services.agent.folders.files import WorkerUser
from trainshed_client.code import read_code
from trainshed_client.statuses import CodeSeen

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")

DAEMON = pwd.getpwnam("daemon")
USER = WorkerUser(
    name="daemon",
    uid=DAEMON.pw_uid,
    gid=DAEMON.pw_gid,
    groups=(DAEMON.pw_gid,),
    home="/nonexistent",
    shell="/bin/sh",
)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="trainshed-acting-", dir="/var/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


def test_only_this_thread_is_that_user_and_only_for_the_block(place: Path) -> None:
    secret = place / "secret"
    secret.write_text("root's")
    secret.chmod(0o640)
    groups, elsewhere = os.getgroups(), []
    inside, seen = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait(5)
        elsewhere.append((secret.read_text(), os.getgroups()))
        seen.set()

    thread = threading.Thread(target=other)
    thread.start()
    with acting_as(USER):
        assert "Groups:\t1 \n" in Path("/proc/thread-self/status").read_text()
        with pytest.raises(PermissionError):
            secret.read_text()
        inside.set()
        assert seen.wait(5)
    thread.join()
    assert elsewhere == [("root's", groups)]
    assert (secret.read_text(), os.getgroups()) == ("root's", groups)


async def test_the_code_is_looked_at_as_the_worker_could(place: Path) -> None:
    for name, mode in (("open", 0o755), ("closed", 0o700)):
        folder = place / name
        folder.mkdir(mode=mode)
        (folder / "train.py").write_text("print(1)\n")
    code = read_code(str(place / "open"))
    assert code is not None
    for name, seen in (("open", CodeSeen.SAME), ("closed", CodeSeen.CHANGED)):
        launch = {"code": {"sha256": code.sha256}, "code_folder": str(place / name)}
        assert await CodeLooks().look(launch) is CodeSeen.SAME
        assert (await CodeLooks().look(launch, USER) is CodeSeen.SAME) == (seen is CodeSeen.SAME)


async def test_git_runs_as_the_worker_would_run_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "bin").mkdir()
    git = place / "bin/git"
    git.write_text(f'#!/bin/sh\nid -u >>{place}/who\nexec {shutil.which("git")} "$@"\n')
    git.chmod(0o755)
    (place / "who").touch()
    (place / "who").chmod(0o666)
    monkeypatch.setenv("PATH", f"{place}/bin:{os.environ['PATH']}")
    folder = place / "code"
    (folder / ".git/objects").mkdir(parents=True)
    (folder / ".git/refs").mkdir()
    (folder / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (folder / "train.py").write_text("print(1)\n")
    code = read_code(str(folder))
    assert code is not None
    launch = {"code": {"sha256": code.sha256}, "code_folder": str(folder)}
    assert await CodeLooks().look(launch, USER) is CodeSeen.SAME
    assert (place / "who").read_text().split() == ["0", str(USER.uid)]
