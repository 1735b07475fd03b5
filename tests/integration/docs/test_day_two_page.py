"""docs/day-two.md: its commands, block by block, as a user types them, while a worker runs through it all.

`systemctl`, `loginctl` and `pip` are stand-ins; the rest is real. What the page says of the commands is asserted here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.up.systemd_unit import UNIT
from tests.support.stack import TRAINSHED, Stack, alive, marked, until

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/day-two.md").read_text()
FAKE = ROOT / "tests/support/fake_systemctl.py"
NewStack = Callable[..., Stack]


def blocks(title: str) -> list[str]:
    """The shell blocks of a section."""
    (section,) = [part for part in PAGE.split("\n## ") if part.startswith(f"{title}\n")]
    return re.findall(r"(?ms)^```sh\n(.*?)^```", section)


class Home:
    """A user's home folder and shell, with a stack that lives in it."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.systemd = folder / "systemd"
        self.systemd.mkdir()
        tools = folder / "bin"
        tools.mkdir()
        (tools / "trainshed").symlink_to(TRAINSHED)
        for name in ("systemctl", "loginctl"):
            (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} {self.systemd} {name} "$@"\n')
        (tools / "pip").write_text(
            '#!/bin/sh\nfor word; do case $word in install|--*) ;; *) test -f "$word/pyproject.toml" || exit 1; esac; done\n'
        )
        for tool in tools.iterdir():
            if not tool.is_symlink():
                tool.chmod(0o755)
        environment = {
            "HOME": str(folder),
            "PATH": f"{tools}:/usr/bin:/bin",
            "CUDA_VISIBLE_DEVICES": "",
            "TRAINSHED_NODE": "box",
            "TRAINSHED_WORKER_USERS": "*=root",
        }
        stack.environment = marked(environment, stack.mark)
        self.environment: dict[str, str] = {}

    def type(self, block: str, code: int = 0) -> str:
        """Run a block as one script that stops at the first command that fails; all that it says."""
        done = subprocess.run(
            ["/bin/sh", "-ec", block],
            env={**self.stack.environment, **self.environment},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, f"{block}\n{done.stdout}"
        return done.stdout

    @property
    def pid(self) -> int:
        """The process of `trainshed up`."""
        return int((self.stack.state_dir / "up.lock").read_text())

    @property
    def unit(self) -> Path:
        """The systemd unit."""
        return self.folder / ".config/systemd/user" / UNIT


@pytest.fixture
def home(new_stack: NewStack, tmp_path: Path) -> Home:
    """No stack runs in it yet."""
    stack = new_stack("home/.local/state/trainshed", start=False)
    (tmp_path / "home").mkdir(exist_ok=True)
    return Home(stack, tmp_path / "home")


def sleeper(stack: Stack, name: str = "trains") -> tuple[str, int]:
    """A worker that goes on until it is told; its run and its pid."""
    run = stack.submit("--name", name, "--", "sleep", "120")
    return run, int(stack.running(run)["pid"])


def test_start(home: Home) -> None:
    detach, down, install = blocks("Start it")
    assert "box" in home.type(detach)
    pid = home.pid
    assert (home.stack.state_dir / "logs/up.log").exists()
    home.type(down)
    assert not alive(pid)

    said = home.type(install)
    assert str(home.unit) in said
    assert "loginctl enable-linger" in said
    calls = (home.systemd / "calls").read_text().splitlines()
    assert calls[:2] == ["systemctl --user daemon-reload", "systemctl --user enable --now trainshed"]
    assert calls[2].startswith("loginctl enable-linger ")
    assert (
        home.stack.trainshed("nodes", json=True)["nodes"][0]["status"] == "up"
    )  # it was ready when that returned
    worker = sleeper(home.stack)[1]
    assert alive(worker)


def test_the_unit_is_what_the_page_says(home: Home) -> None:
    home.type("trainshed service install")
    lines = home.unit.read_text().splitlines()
    table = re.findall(r"(?m)^\| `(\w+=\w+)` \|", PAGE)
    assert len(table) == 6
    assert [line for line in table if line not in lines] == []


def test_restart(home: Home) -> None:
    by_hand, service, with_workers = blocks("Restart")
    home.type("trainshed up --detach")
    run, worker = sleeper(home.stack)
    first = home.pid
    assert "RUNNING" in home.type(by_hand)
    assert not alive(first)
    assert home.stack.record(run)["pid"] == worker

    home.type("trainshed down; trainshed service install; systemctl --user enable --now trainshed")
    second = home.pid
    assert "RUNNING" in home.type(service)
    assert not alive(second)
    assert alive(home.pid)
    assert home.stack.record(run)["pid"] == worker
    third = home.pid
    home.type(with_workers)
    assert not alive(third)
    assert not alive(worker)
    home.type("trainshed up --detach")
    (ended,) = home.stack.wait(run, code=125)
    assert (ended["status"], ended["failure_reason"]) == ("FAILED", "node_reclaimed")


def test_reboot(home: Home) -> None:
    before, after = blocks("Reboot")
    home.type("trainshed up --detach")
    pipe = home.folder / "pipe"
    os.mkfifo(pipe)
    run = home.stack.submit("--", "cat", str(pipe))
    home.stack.running(run)
    queued = home.stack.submit("--name", "waits", "--after", run, "--", "true")
    with pipe.open("w"):
        pass  # it ends while the page's commands wait for it
    home.environment = {"NODE": "box", "RUN": run}
    home.type(before)
    home.type(after)
    (record,) = home.stack.trainshed("nodes", json=True)["nodes"]
    assert record["drained"] is False
    home.stack.wait(queued)
    assert [event["type"].split(".")[2] for event in home.stack.events() if ".node." in event["type"]].count(
        "node_drained"
    ) == 1
    assert home.stack.record(run)["exit_code"] == 0


def test_upgrade(home: Home) -> None:
    (upgrade,) = blocks("Upgrade")
    home.type("trainshed up --detach")
    run, worker = sleeper(home.stack)
    assert "the tables are the same" in home.type(upgrade)
    assert home.stack.record(run)["pid"] == worker
    home.environment = {"PATH": "/nowhere"}
    home.type("pip install --upgrade ./client .", code=127)


def test_full_disk(home: Home) -> None:
    """That a disk which is really full needs no more than room: tests/integration/stack/test_disk_full.py."""
    look, prune, make_room, again = blocks("Full disk")
    home.type("trainshed up --detach")
    done = home.stack.submit("--name", "done", shell='echo out; echo x > "$TRAINSHED_RUN_DIR/ckpt"')
    home.stack.wait(done)
    assert str(home.stack.state_dir / "runs") in home.type(look)
    home.type(prune)
    assert home.stack.run_dir(done).exists()  # it is younger than that
    home.environment = {"RUN": done}
    shown = home.type(make_room)
    assert not home.stack.run_dir(done).exists()
    assert "COMPLETED" in shown
    assert "the tables are the same" in home.type(again)
    home.stack.trainshed("retry", done)
    until(lambda: home.stack.record(done)["attempt"] == 2 and home.stack.record(done)["ended_at"])
    assert home.stack.record(done)["status"] == "COMPLETED"


def test_a_log_restored_from_a_backup(home: Home) -> None:
    verify, accept = blocks("A log restored from a backup")
    stack, store = home.stack, home.stack.state_dir / "nats"

    def witness() -> dict[str, Any]:
        (node,) = stack.trainshed("nodes", json=True)["nodes"]
        return dict(node)

    home.type("trainshed up --detach; trainshed run -- true; trainshed down")
    shutil.copytree(store, home.folder / "backup", symlinks=True)
    home.type("trainshed up --detach; trainshed run --name lost -- true")
    until(lambda: (witness()["witnessed_size"] or 0) > 10, 30.0, what="a cosignature of what will be lost")
    home.type("trainshed down")
    shutil.rmtree(store)
    shutil.copytree(home.folder / "backup", store, symlinks=True)
    home.type("trainshed up --detach")
    until(lambda: witness()["witness_objection"], 30.0, what="an objection")
    shown = stack.trainshed("nodes")
    assert "objects" in shown.text and "trainshed audit accept --reason TEXT" in shown.stderr
    found = home.type(verify, code=1)
    assert "I8 at " in found and "box objects to the log since" in found and "is gone" in found
    home.type(accept)
    until(lambda: witness()["witness_objection"] is None, 30.0, what="its end")
    verified = home.type(verify)
    assert "the tables are the same" in verified
    assert "restored from last night's backup" in verified
    assert len(list((stack.state_dir / "witness").iterdir())) > 1


def test_room(home: Home) -> None:
    prune, afterwards = blocks("Room")
    home.type("trainshed up --detach")
    old = home.stack.submit("--name", "old", shell='echo out; echo x > "$TRAINSHED_RUN_DIR/ckpt"')
    home.stack.wait(old)
    assert "DISK FREE" in home.type(prune)
    assert (home.stack.run_dir(old) / "ckpt").exists(), "it ended a moment ago"
    home.type(prune.replace("30d", "0s"))
    assert not home.stack.run_dir(old).exists()
    home.environment = {"RUN": old}
    told = home.type(afterwards, code=4)
    assert "COMPLETED" in told and "was deleted at" in told


def test_a_unit_that_was_not_written_by_us_is_left(home: Home) -> None:
    home.unit.parent.mkdir(parents=True)
    home.unit.write_text("[Service]\nExecStart=/bin/true\n")
    done = home.stack.trainshed("service", "install", code=2)
    assert "was not written by Trainshed" in done.stderr
    assert home.unit.read_text().startswith("[Service]")


def test_the_unit_has_the_options_and_the_settings_of_who_installs_it(home: Home) -> None:
    done = home.stack.trainshed(
        *("service", "install", "--gpus", "2", "--heartbeat-timeout", "10m"),
        environment={"TRAINSHED_RUNS_DIR": "/data/my runs", "TRAINSHED_NATS_PASSWORD": "hunter2"},
    )
    assert done.text == f"{home.unit}\n"
    text = home.unit.read_text()
    assert f"ExecStart={TRAINSHED} up --gpus 2 --heartbeat-timeout 10m\n" in text
    assert f'Environment="TRAINSHED_STATE_DIR={home.stack.state_dir}"\n' in text
    assert 'Environment="TRAINSHED_RUNS_DIR=/data/my runs"\n' in text
    assert f'Environment="PATH={home.stack.environment["PATH"]}"\n' in text
    assert "hunter2" not in text
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (apt: systemd)")
    checked = subprocess.run(
        ["systemd-analyze", "--user", "verify", "--man=no", home.unit],
        env={**home.stack.environment, "XDG_RUNTIME_DIR": str(home.folder)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    told = [
        line for line in checked.stderr.splitlines() if "'DelegateSubgroup'" not in line
    ]  # of systemd 254
    assert (checked.returncode, checked.stdout, told) == (0, "", [])
