"""As whom workers run: what the setting means, and what a root agent refuses at its start."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from services.agent.folders.files import WorkerUser
from services.agent.processes.users import NotMapped, WorkerUsers, worker_users
from services.setting_values import UserMap, user_map
from services.settings import Settings
from trainshed_client.errors import TrainshedError

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")


def settings(tmp_path: Path, **given: str) -> Settings:
    named = {f"TRAINSHED_{name}": value for name, value in given.items()}
    return Settings.read({"TRAINSHED_STATE_DIR": str(tmp_path / "state"), **named})


@pytest.mark.parametrize(
    ("submitter", "user"),
    [
        ("sam", "sam"),
        ("P_sam", "sam"),
        ("local", "ann"),
        ("P_kim", "nobody"),
        ("run/abc", "nobody"),
        ("*", "nobody"),
    ],
)
def test_a_submitters_user_is_his_own_else_everybodys(submitter: str, user: str) -> None:
    assert user_map("sam=sam, local=ann,*=nobody").user_of(submitter) == user


def test_who_is_not_named_has_no_user() -> None:
    assert user_map("sam=sam").user_of("ann") is None


@pytest.mark.parametrize(
    "text",
    ["sam", "=sam", "sam=", "sam=a b=", "sam=ann,sam=kim", "Sam=sam", "sam=-x", "sam=../x", "P_sam=x", ","],
)
def test_what_is_no_map_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="SUBMITTER=USER"):
        user_map(text)


def test_a_map_reads_as_it_was_written() -> None:
    assert str(user_map("sam=sam *=nobody")) == "sam=sam,*=nobody"
    assert user_map(str(user_map("sam=sam,*=nobody"))) == user_map("sam=sam,*=nobody")


def test_a_submitter_without_a_user_is_told_the_setting() -> None:
    users = WorkerUsers(
        chosen=UserMap((("sam", "daemon"),)),
        users={"daemon": WorkerUser(name="daemon", uid=1, gid=1, groups=(1,), home="/", shell="/bin/sh")},
    )
    assert users.of("P_sam", "gpu01") == users.users["daemon"]
    with pytest.raises(NotMapped, match=r"gpu01 .*'P_kim'.*TRAINSHED_WORKER_USERS \(sam=daemon\)"):
        users.of("P_kim", "gpu01")
    assert WorkerUsers().of("P_kim", "gpu01") is None, "an agent that is not root's runs all as its own user"


@ROOT_ONLY
def test_a_root_agent_without_the_setting_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    with pytest.raises(TrainshedError, match=r"TRAINSHED_WORKER_USERS='\*=ann'"):
        worker_users(settings(tmp_path))


@ROOT_ONLY
def test_a_user_that_the_machine_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainshedError, match="names the user 'no-such-one'"):
        worker_users(settings(tmp_path, WORKER_USERS="*=no-such-one"))


@ROOT_ONLY
def test_root_is_a_user_where_the_map_says_so(tmp_path: Path) -> None:
    made = worker_users(settings(tmp_path, WORKER_USERS="*=root"))
    assert made.of("local", "box") is None, "it runs as the agent does"
    assert (made.others, made.no_new_privs) == ((), True)
    assert not worker_users(settings(tmp_path, WORKER_USERS="*=root", NO_NEW_PRIVS="0")).no_new_privs


@ROOT_ONLY
def test_the_runs_folders_must_be_reached_by_who_works_there_and_be_roots(tmp_path: Path) -> None:
    with pytest.raises(TrainshedError, match=r"daemon .*cannot come to .*TRAINSHED_RUNS_DIR"):
        worker_users(settings(tmp_path, WORKER_USERS="*=daemon"))  # pytest's folders are its own user's alone
    with pytest.raises(TrainshedError, match="may be written by others than root"):
        worker_users(settings(tmp_path, WORKER_USERS="*=daemon", RUNS_DIR="/tmp"))


@ROOT_ONLY
def test_the_state_folder_is_closed_to_who_is_not_root(tmp_path: Path) -> None:
    runs = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        runs.chmod(0o755)
        state = tmp_path / "state"
        state.mkdir(mode=0o755)
        os.chown(state, pwd.getpwnam("daemon").pw_uid, -1)
        made = worker_users(settings(tmp_path, WORKER_USERS="*=daemon", RUNS_DIR=str(runs)))
        assert [user.name for user in made.others] == ["daemon"]
        assert state.stat().st_mode & 0o777 == 0o700
        assert state.stat().st_uid == 0
    finally:
        runs.rmdir()


@ROOT_ONLY
def test_a_user_has_all_of_its_groups(tmp_path: Path) -> None:
    user = worker_users(settings(tmp_path, WORKER_USERS="*=root")).users["root"]
    assert set(user.groups) == set(os.getgrouplist("root", pwd.getpwnam("root").pw_gid))
