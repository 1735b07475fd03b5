"""Claims about the systemd unit, the word to systemd, the bounded log file and what tells a unit's process."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from services.agent.shim import cgroup
from services.settings import Settings, given_settings
from services.up.down import REQUEST_FILE, down, take_request, unit_of
from services.up.log_file import LogFile, open_log
from services.up.sd_notify import VARIABLE, Notifier
from services.up.state_lock import StateLock, holder
from services.up.systemd_unit import MARK, UNIT, unit_path, unit_text
from trainshed_client.errors import TrainshedError

ODD = "/home/a user/50% \"of\" $HOME\\n'x'"


def section(text: str, name: str) -> dict[str, list[str]]:
    """The settings of one section of a unit."""
    body = text.split(f"[{name}]\n")[1].split("\n[")[0]
    found: dict[str, list[str]] = {}
    for line in body.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_a_restart_and_one_workers_oom_end_no_other_worker() -> None:
    settings = section(unit_text(["/bin/trainshed", "up"], {}), "Service")
    assert {
        key: settings[key]
        for key in ("Type", "Restart", "KillMode", "OOMPolicy", "Delegate", "DelegateSubgroup")
    } == {
        "Type": ["notify"],
        "Restart": ["always"],
        "KillMode": ["process"],
        "OOMPolicy": ["continue"],
        "Delegate": ["yes"],
        "DelegateSubgroup": [cgroup.AGENT_CGROUP],
    }
    assert "ExecStop" not in settings


def test_odd_words_come_out_of_the_unit_as_they_went_in() -> None:
    text = unit_text(["/bin/trainshed", "up", "--node", ODD], {"TRAINSHED_STATE_DIR": ODD, "EMPTY": ""})
    settings = section(text, "Service")
    (command,) = settings["ExecStart"]
    assert [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(command)] == [
        *("/bin/trainshed", "up", "--node", ODD)
    ]
    assert [shlex.split(line)[0].replace("%%", "%") for line in settings["Environment"]] == [
        f"TRAINSHED_STATE_DIR={ODD}",
        "EMPTY=",
    ]
    assert not re.search(r"(?<!\$)\$(?!\$)", command)


def test_a_line_break_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        unit_text(["/bin/trainshed"], {"A": "x\nExecStart=/bin/evil"})


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (apt: systemd)"
)
@pytest.mark.parametrize("odd", [False, True])
def test_systemd_finds_no_fault_with_it(tmp_path: Path, odd: bool) -> None:
    words = ["/bin/true", "up", *(["--node", ODD] if odd else [])]
    unit = tmp_path / UNIT
    unit.write_text(unit_text(words, {"TRAINSHED_STATE_DIR": ODD if odd else "/srv/state"}))
    done = verified(unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    unit.write_text(unit.read_text().replace("KillMode=process", "KillMood=process"))
    assert "KillMood" in verified(unit).stderr  # the check can fail


def verified(unit: Path) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze verify`, which needs a folder for its runtime files and asks no running systemd."""
    environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(unit.parent), "HOME": str(unit.parent)}
    command = ["systemd-analyze", "--user", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    lines = done.stderr.splitlines(keepends=True)
    done.stderr = "".join(line for line in lines if "'DelegateSubgroup'" not in line)  # of systemd 254
    return done


def test_the_unit_lies_where_systemd_looks() -> None:
    assert unit_path({"XDG_CONFIG_HOME": "/c"}) == Path("/c/systemd/user/trainshed.service")
    assert unit_path({}) == Path.home() / ".config/systemd/user/trainshed.service"
    assert unit_text(["/bin/true"], {}).startswith(MARK)


def test_the_settings_that_are_given_read_back_the_same_and_no_secret_is_among_them() -> None:
    given = {
        "TRAINSHED_STATE_DIR": "state",
        "TRAINSHED_HEARTBEAT_TIMEOUT": "no setting",
        "TRAINSHED_NODE_LOST_S": "1m",
        "TRAINSHED_ALLOW_CREDENTIALS": "yes",
        "TRAINSHED_HTTP_LISTEN": "8080",
        "TRAINSHED_NATS_URL": "nats://elsewhere:4222",
        "TRAINSHED_NATS_PASSWORD": "hunter2",
        "VAR_LOGS_DIR": "logs",
    }
    settings = Settings.read(given)
    kept = given_settings(settings, given)
    assert set(kept) == set(given) - {
        *("TRAINSHED_HEARTBEAT_TIMEOUT", "TRAINSHED_NATS_URL", "TRAINSHED_NATS_PASSWORD")
    }
    assert kept["TRAINSHED_STATE_DIR"] == str(Path("state").absolute())
    read = Settings.read(kept)
    for name in ("state_dir", "runs_dir", "node_lost_s", "allow_credentials", "http_listen", "var_logs_dir"):
        assert getattr(read, name) == getattr(settings, name), name


def test_each_setting_that_can_be_given_reads_back_as_text() -> None:
    settings = Settings.read(
        {"TRAINSHED_LOG_FORMAT": "console", "TRAINSHED_MIN_FREE_MB": "5", "TRAINSHED_REPLICAS": "3"}
    )
    environ = {"TRAINSHED_LOG_FORMAT": "console", "TRAINSHED_MIN_FREE_MB": "5", "TRAINSHED_REPLICAS": "3"}
    assert given_settings(settings, environ) == environ


# --- the word to systemd ----------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_a_word_to_systemd_arrives_and_the_variable_goes_no_further(tmp_path: Path, abstract: bool) -> None:
    name = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    environ = {VARIABLE: name, "OTHER": "1"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name[1:] if abstract else name)
        listening.settimeout(5)
        notifier = Notifier.take(environ)
        notifier.notify("READY=1", "STATUS=two\nlines")
        assert listening.recv(4096) == b"READY=1\nSTATUS=two lines"
    assert environ == {"OTHER": "1"}
    notifier.notify("STOPPING=1")  # nobody listens any more: no fault
    Notifier.take({}).notify("READY=1")


# --- whose process it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/trainshed.service\n", UNIT),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/trainshed.service/worker\n", UNIT),
        ("0::/user.slice/user-1000.slice/session-4.scope\n", "session-4.scope"),
        ("12:cpu:/trainshed.service\n1:name=systemd:/user.slice/session-1.scope\n", "session-1.scope"),
        ("0::/\n", ""),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_the_unit_of_a_process_is_read_off_its_control_group(cgroup: str, unit: str) -> None:
    assert unit_of(cgroup) == unit


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b'{"pid": 7, "stop_workers": true, "v": 1}', True),
        (b'{"pid": 7, "stop_workers": true, "v": 2, "new": 1}', True),
        (b'{"pid": 8, "stop_workers": true}', False),
        (b'{"pid": 7}', False),
        (b"{", False),
        (b"", False),
    ],
)
def test_a_request_is_for_the_process_that_it_names_and_for_once(
    tmp_path: Path, content: bytes, asked: bool
) -> None:
    (tmp_path / REQUEST_FILE).write_bytes(content)
    assert take_request(tmp_path, 7) is asked
    assert not (tmp_path / REQUEST_FILE).exists()
    assert take_request(tmp_path, 7) is False


def test_down_does_not_stop_what_systemd_would_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.up.down._unit", lambda pid: UNIT if pid == os.getpid() else "")
    with StateLock(tmp_path):  # this process is the stack: a signal would end the tests
        assert holder(tmp_path) == os.getpid()
        with pytest.raises(TrainshedError, match="systemctl --user stop trainshed"):
            down(tmp_path, stop_workers=False, show=print)
    assert holder(tmp_path) is None
    assert down(tmp_path, stop_workers=False, show=print) is None


# --- the log file -----------------------------------------------------------------------------------------


def test_a_log_file_is_moved_aside_and_whoever_has_it_open_writes_on(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "up.log"
    first, second = open_log(path), open_log(path)
    try:
        log = LogFile(path, max_bytes=1000)
        for round_ in range(5):
            assert log.bound() is False
            for fd in (first, second):
                os.write(fd, f"round {round_}\n".encode() * 100)
            assert log.bound() is True
            assert path.stat().st_size == 0
        os.write(first, b"after\n")
        os.write(second, b"that\n")
    finally:
        os.close(first)
        os.close(second)
    assert path.read_bytes() == b"after\nthat\n"
    assert sorted(file.name for file in path.parent.iterdir()) == ["up.log", "up.log.1", "up.log.2"]
    assert path.with_name("up.log.1").read_bytes() == b"round 4\n" * 200
    assert path.with_name("up.log.2").read_bytes() == b"round 3\n" * 200
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_of_a_log_that_grew_far_beyond_its_bound_the_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "up.log"
    path.write_bytes(b"x" * 100_000 + b"the end")
    assert LogFile(path, max_bytes=1000).bound() is True
    kept = path.with_name("up.log.1").read_bytes()
    assert len(kept) == 2000
    assert kept.endswith(b"the end")


async def test_the_log_is_looked_at_while_it_runs_and_its_end_is_at_once(tmp_path: Path) -> None:
    path = tmp_path / "up.log"
    log = LogFile(path, max_bytes=10, every_s=3600)
    path.write_bytes(b"x" * 11)
    assert log.ready.is_set()
    log.stop()
    await log.run()
    assert path.stat().st_size == 11  # a stop is a stop
    log = LogFile(tmp_path / "gone" / "up.log", max_bytes=10, every_s=0.001)
    running = asyncio.create_task(log.run())
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "up.log").write_bytes(b"x" * 11)
    async with asyncio.timeout(5):
        while not (tmp_path / "gone" / "up.log.1").exists():
            await asyncio.sleep(0)
    log.stop()
    await running
