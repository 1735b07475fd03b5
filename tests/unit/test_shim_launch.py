"""The worker's command from an intent: environment, placeholders, secrets and program."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from events.own_variables import INSTEAD
from services.agent.folders import files
from services.agent.folders.files import ExitReason, StopReason
from services.agent.processes.sockets import LONGEST_PATH, sockets_dir
from services.agent.shim import launch
from services.agent.shim.core_types import Limits, Source
from services.agent.shim.environment import THREADS, inherited_base
from services.agent.shim.launch import Command, SpawnError

RUN = "abcdefghijklmnopqrstuvwxyz"
AGENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/someone",
    "USER": "someone",
    "LOGNAME": "someone",
    "SHELL": "/bin/sh",
    "TRAINSHED_STATE_DIR": "/state",
    "TRAINSHED_LOG_ID": "outer",
    "NATS_URL": "nats://x",
    "NATS_PASSWORD": "p",
    "NOTIFY_SOCKET": "/outer",
    "WATCHDOG_USEC": "1",
    "WATCHDOG_PID": "2",
    "HF_TOKEN": "hunter2",
}


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder; the attempt's is the working directory, as it is a shim's."""
    folder = tmp_path / "attempt"
    folder.mkdir()
    monkeypatch.chdir(folder)
    run = tmp_path / "run"
    run.mkdir()
    return run


def intent(run_dir: Path, config: dict[str, Any], **more: Any) -> launch.ShimIntent:
    return launch.read_intent(
        {
            "v": 1,
            "boot_id": "b",
            "run_id": RUN,
            "attempt": 2,
            "node": "gpu01",
            "log_id": "log",
            "launch": config,
            "devices": ["GPU-1", "GPU-2"],
            "run_dir": str(run_dir),
            "output_dir": str(run_dir),
            "sockets": "/s",
            "a field of a later release": 1,
            **more,
        }
    )


def command(run_dir: Path, config: dict[str, Any], **more: Any) -> Command:
    return launch.command(intent(run_dir, config, **more), AGENT, os.getcwd(), "/s/7.sock")


def test_the_environment_is_the_machines_then_the_declared_then_ours(run_dir: Path) -> None:
    made = command(
        run_dir,
        {
            "entry_point": "/bin/true",
            "environment": {
                "HOME": "/else",
                "A": "b",
                "TRAINSHED_RUN_ID": "forged",
                "CUDA_VISIBLE_DEVICES": "7",
            },
            "schedule": {"max_steps": 1000},
        },
        slots=[0, 3],
        cpus=2,
        memory_mb=512,
    )
    assert made.environment == {
        "PATH": "/usr/bin:/bin",
        "HOME": "/else",
        "USER": "someone",
        "LOGNAME": "someone",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        "A": "b",
        "TRAINSHED_LOG_ID": "log",
        "TRAINSHED_RUN_ID": RUN,
        "TRAINSHED_ATTEMPT": "2",
        "TRAINSHED_NODE": "gpu01",
        "TRAINSHED_RUN_DIR": str(run_dir),
        "TRAINSHED_CPUS": "2",
        "TRAINSHED_MEMORY_MB": "512",
        "TRAINSHED_SLOTS": "0,3",
        "TRAINSHED_MAX_STEPS": "1000",
        "CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "NOTIFY_SOCKET": "/s/7.sock",
    }


def test_the_threads_that_were_granted_are_told_where_the_config_does_not(run_dir: Path) -> None:
    made = command(
        run_dir,
        {"entry_point": "/bin/true", "environment": {"NPROC": "2", "PYTHONUNBUFFERED": ""}},
        threads=12,
    ).environment
    assert {made[name] for name in THREADS if name != "NPROC"} == {"12"}
    assert (made["NPROC"], made["PYTHONUNBUFFERED"]) == ("2", "")


def test_what_a_config_of_an_older_log_sets_of_ours_is_overwritten_and_no_longer_accepted(
    run_dir: Path,
) -> None:
    """The gateway refuses by name what the shim sets whatever the config says."""
    config = {
        "entry_point": "/bin/true",
        "schedule": {"max_steps": 1000},
        "heartbeat": {"source": "notify"},
    }
    ours: dict[str, Any] = {"heartbeat_timeout_s": 60.0, "threads": 1, "socket": "/s/w.sock"}
    names = command(run_dir, config, **ours).environment
    forged = {"environment": dict.fromkeys(names, "/forged"), **config}
    made = command(run_dir, forged, **ours).environment
    assert {name for name, value in made.items() if value != "/forged"} == INSTEAD.keys()


TERMINALS = {
    "tmux": {"TMUX": "/tmp/tmux-1/default,1,0", "TMUX_PANE": "%0", "TERM": "tmux-256color", "SHLVL": "2"},
    "ssh": {"SSH_CONNECTION": "::1 1 ::1 22", "SSH_TTY": "/dev/pts/0", "LANG": "de_DE@euro", "LC_ALL": "C"},
    "venv": {"VIRTUAL_ENV": "/own", "PATH": "/own/bin:/usr/bin:/bin", "PS1": "(own)", "PYTHONPATH": "/x"},
    "systemd": {"INVOCATION_ID": "0" * 32, "JOURNAL_STREAM": "8:1", "SYSTEMD_EXEC_PID": "1"},
}


@pytest.mark.parametrize("terminal", TERMINALS)
def test_nothing_of_the_terminal_that_the_agent_was_started_in(terminal: str) -> None:
    started = {**AGENT, "_": "/own/bin/trainshed", "PWD": "/", "OLDPWD": "/", **TERMINALS[terminal]}
    assert inherited_base(started, "/own") == inherited_base(AGENT, "/own")


def test_what_the_machine_needs_is_passed_over() -> None:
    machine = {
        "TZ": "Europe/Berlin",
        "TMPDIR": "/scratch",
        "https_proxy": "http://proxy:3128",
        "NO_PROXY": "localhost",
        "CUDA_HOME": "/usr/local/cuda",
        "NVIDIA_DRIVER_CAPABILITIES": "compute",
        "NCCL_SOCKET_IFNAME": "eth1",
    }
    base = inherited_base({**AGENT, **machine})
    assert {name: base[name] for name in machine if name in base} == machine


def test_an_operator_passes_more_over_by_name_but_nothing_of_trainsheds_own(run_dir: Path) -> None:
    agent = {
        **AGENT,
        "WANDB_MODE": "offline",
        "LANG": "de_DE.UTF-8",
        "PATH": "/own/bin:/bin",
        "A.B": "1",
        "AxB": "2",
    }
    base = inherited_base({**agent, "TRAINSHED_WORKER_ENV": "HF_*, A.B NATS_*,*PASSWORD,LANG"}, "/own")
    assert base.keys() == inherited_base(AGENT).keys() | {"HF_TOKEN", "A.B", "LANG"}
    assert base["PATH"] == "/bin"
    assert inherited_base({**agent, "TRAINSHED_WORKER_ENV": "PATH"}, "/own")["PATH"] == "/own/bin:/bin"


def test_a_service_that_is_told_of_no_user_says_who_it_is() -> None:
    """As a container's and a system service's agent."""
    base = inherited_base({"USER": "ada"})
    user = pwd.getpwuid(os.getuid())
    assert base == {
        "USER": "ada",
        "LOGNAME": user.pw_name,
        "HOME": user.pw_dir,
        "SHELL": user.pw_shell,
        "PATH": os.defpath,
    }


def test_without_devices_no_gpu_is_visible(run_dir: Path) -> None:
    assert (
        command(run_dir, {"entry_point": "/bin/true"}, devices=[]).environment["CUDA_VISIBLE_DEVICES"] == ""
    )


def test_watchdog_usec_is_set_only_for_notify_with_a_timeout(run_dir: Path) -> None:
    def usec(heartbeat: dict[str, Any], node_s: float | None) -> str | None:
        made = command(
            run_dir, {"entry_point": "/bin/true", "heartbeat": heartbeat}, heartbeat_timeout_s=node_s
        )
        return made.environment.get("WATCHDOG_USEC")

    assert usec({"source": "notify", "timeout_s": 2.5}, 300.0) == "2500000"
    assert usec({"source": "notify"}, 300.0) == "300000000"
    assert usec({"source": "notify"}, None) is None
    assert usec({"source": "output", "timeout_s": 2.5}, 300.0) is None
    assert usec({}, 300.0) is None


def test_placeholders_are_filled_in_arguments_and_environment_and_nothing_else(run_dir: Path) -> None:
    made = command(
        run_dir,
        {
            "entry_point": "/bin/echo",
            "arguments": [
                "{{run_id}}-{{attempt}}",
                "{{run_dir}}/x",
                "{{node}}",
                "{{other}} {{ run_id }} {run_id} $HOME",
            ],
            "environment": {"WHERE": "{{run_dir}}/{{attempt}}"},
        },
    )
    assert made.argv == [
        "/bin/echo",
        f"{RUN}-2",
        f"{run_dir}/x",
        "gpu01",
        "{{other}} {{ run_id }} {run_id} $HOME",
    ]
    assert made.environment["WHERE"] == f"{run_dir}/2"


@pytest.mark.parametrize(
    ("number", "whose"),
    [
        (errno.ENOENT, launch.RUN),
        (errno.EACCES, launch.RUN),
        (errno.ENOEXEC, launch.RUN),
        (errno.E2BIG, launch.RUN),
        (errno.EMFILE, launch.NODE),
        (errno.ENOSPC, launch.NODE),
        (errno.EIO, launch.NODE),
        (errno.ESTALE, launch.NODE),
    ],
)
def test_whose_fault_an_error_is_goes_by_its_number(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int, whose: str
) -> None:
    real = os.stat

    def stat(path: str, *args: Any, **kwargs: Any) -> os.stat_result:
        if path == "/opt/train":
            raise OSError(number, os.strerror(number), path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(SpawnError) as caught:
        command(run_dir, {"entry_point": "/opt/train"})
    assert caught.value.at_fault == whose


@pytest.mark.parametrize(("named", "whose"), [("/no/such/folder", launch.RUN), (None, launch.NODE)])
def test_the_folder_that_a_run_names_is_its_own_trouble_and_the_runs_folder_the_nodes(
    run_dir: Path, named: str | None, whose: str
) -> None:
    shutil.rmtree(run_dir)
    with pytest.raises(SpawnError) as caught:
        command(run_dir, {"entry_point": "/bin/true", "working_dir": named})
    assert caught.value.at_fault == whose


def test_what_a_placeholder_gave_is_not_filled_again(tmp_path: Path, run_dir: Path) -> None:
    odd = tmp_path / "{{node}}"
    odd.mkdir()
    made = command(odd, {"entry_point": "/bin/echo", "arguments": ["{{run_dir}}"]})
    assert made.argv[1] == str(odd)


def test_the_older_worker_decides_over_entry_point(run_dir: Path) -> None:
    made = command(
        run_dir,
        {
            "entry_point": sys.executable,
            "arguments": ["-m", "passed.over"],
            "worker": {
                "module": "my_worker.cli",
                "arguments": ["--seed", "1", "{{attempt}}"],
                "config": {"run_id": "x", "env_id": "CartPole-v1", "deep": [{"at": "{{run_dir}}"}]},
                "worker_id": "w1",
            },
        },
    )
    path = f"{os.getcwd()}/worker_config.json"
    assert made.program == sys.executable
    assert made.argv == [
        sys.executable,
        *["-m", "my_worker.cli", "--seed", "1", "2", "--config", path, "--worker-id", "w1"],
    ]
    assert made.environment["TRAINER_WORKER_CONFIG_PATH"] == path
    assert made.environment["WORKER_ID"] == "w1"
    assert json.loads(Path(path).read_text()) == {
        "run_id": RUN,
        "env_id": "CartPole-v1",
        "deep": [{"at": str(run_dir)}],
    }


def test_an_older_workers_script_runs_with_python3_where_entry_point_is_no_python(run_dir: Path) -> None:
    made = command(
        run_dir,
        {"entry_point": "train", "worker": {"script": "/x/train.py"}, "environment": {"PATH": _bin()}},
    )
    assert made.argv == ["python3", "/x/train.py"]
    assert made.program == f"{_bin()}/python3"


def _bin() -> str:
    return str(Path(sys.executable).parent)


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_bare_name_is_looked_up_in_the_declared_path_else_the_agents(tmp_path: Path, run_dir: Path) -> None:
    mine = executable(tmp_path / "bin" / "true")
    assert command(
        run_dir, {"entry_point": "true", "environment": {"PATH": str(mine.parent)}}
    ).program == str(mine)
    assert command(run_dir, {"entry_point": "true"}).program == "/usr/bin/true"


def test_a_name_with_a_slash_is_relative_to_the_working_directory(tmp_path: Path, run_dir: Path) -> None:
    work = tmp_path / "work"
    executable(work / "bin" / "train")
    made = command(run_dir, {"entry_point": "bin/train", "working_dir": str(work)})
    assert (made.program, made.argv, made.working_dir) == (str(work / "bin/train"), ["bin/train"], str(work))
    executable(run_dir / "here")
    assert command(run_dir, {"entry_point": "./here"}).working_dir == str(run_dir)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"entry_point": "/x/y"}, "/x/y: no such file"),
        ({"entry_point": "no-such-program"}, "no-such-program: no such file in PATH (/usr/bin:/bin)"),
        ({"entry_point": "/etc/passwd"}, "/etc/passwd: not executable"),
        ({"entry_point": "/etc"}, "/etc: a folder, not a program"),
        ({"entry_point": "/bin/true", "working_dir": "/x/y"}, "working_dir /x/y: no such folder"),
        (
            {"entry_point": "/bin/true", "working_dir": "/etc/hostname"},
            "working_dir /etc/hostname: not a folder",
        ),
        (
            {"entry_point": "/bin/true", "secrets": {"K": {"file": "/x/key"}}},
            "secret K: /x/key: no such file",
        ),
        (
            {"entry_point": "/bin/true", "secrets": {"K": {"env": "NOT_SET"}}},
            "secret K: NOT_SET is not set in the agent's environment",
        ),
    ],
)
def test_what_cannot_start_says_which_path_and_why(
    run_dir: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpawnError) as caught:
        command(run_dir, config)
    assert str(caught.value) == message


def test_a_name_in_path_that_is_not_executable_is_named(tmp_path: Path, run_dir: Path) -> None:
    (tmp_path / "train").write_text("")
    with pytest.raises(SpawnError, match=r"/train: not executable"):
        command(run_dir, {"entry_point": "train", "environment": {"PATH": f"/nowhere:{tmp_path}"}})


def test_secrets_come_from_files_and_the_agents_environment_and_win_over_the_declared(
    tmp_path: Path, run_dir: Path
) -> None:
    (tmp_path / "key").write_bytes(b"s3cret\n")
    made = command(
        run_dir,
        {
            "entry_point": "/bin/true",
            "environment": {"KEY": "plain"},
            "secrets": {"KEY": {"file": str(tmp_path / "key")}, "TOKEN": {"env": "HF_TOKEN"}},
        },
    )
    assert (made.environment["KEY"], made.environment["TOKEN"]) == ("s3cret", "hunter2")
    assert "s3cret" not in repr(made)


def test_a_secret_file_that_is_a_pipe_holds_nothing_up(tmp_path: Path, run_dir: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    made = command(run_dir, {"entry_point": "/bin/true", "secrets": {"K": {"file": str(tmp_path / "pipe")}}})
    assert made.environment["K"] == ""


def test_limits_have_the_run_configs_defaults(run_dir: Path) -> None:
    assert launch.limits(intent(run_dir, {})) == Limits(15, 5.0, None, Source.PROCESS, None)
    named = {
        "stop": {"signal": "SIGINT", "grace_s": 0.5},
        "heartbeat": {"source": "output", "timeout_s": 7},
        "schedule": {"max_duration_seconds": 60},
    }
    assert launch.limits(intent(run_dir, named, heartbeat_timeout_s=300.0)) == Limits(
        2, 0.5, 60.0, Source.OUTPUT, 7.0
    )


# The agent's side of the same files


def test_a_torn_or_empty_file_reads_as_absent_and_unknown_fields_and_reasons_do_not_stop_a_reader(
    tmp_path: Path,
) -> None:
    assert files.read_exit(tmp_path) is None
    for torn in (b"", b'{"v":1,"rea'):
        (tmp_path / "exit.json").write_bytes(torn)
        assert files.read_exit(tmp_path) is None
    (tmp_path / "exit.json").write_text('{"v":2,"reason":"of a later release","ended_at":1.0,"more":[]}')
    found = files.read_exit(tmp_path)
    assert found is not None
    assert found.reason is ExitReason.UNSPECIFIED


def test_a_stop_can_be_written_again_and_leaves_no_other_file(tmp_path: Path) -> None:
    folder = tmp_path / RUN / "1"
    files.prepare_folder(folder)
    files.prepare_folder(folder)
    files.write_stop(folder, StopReason.RECLAIMED, 0)
    files.write_stop(folder, StopReason.CANCEL, 7)
    stop = files.read_stop(folder)
    assert stop is not None
    assert (stop.v, stop.reason, stop.seq) == (1, StopReason.CANCEL, 7)
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "stop.json"]


def test_sockets_go_below_tmp_where_the_state_folders_path_is_too_long(tmp_path: Path) -> None:
    short, tmp = Path(f"/tmp/h{os.getpid()}"), tmp_path / "tmp"
    tmp.mkdir()
    try:
        assert sockets_dir(short, tmp) == short / "s"
    finally:
        (short / "s").rmdir()
        short.rmdir()
    long = tmp_path / ("x" * LONGEST_PATH)
    far = sockets_dir(long, tmp)
    assert far.parent == tmp / f"trainshed-{os.getuid()}"
    assert far == sockets_dir(long, tmp)
    assert far != sockets_dir(tmp_path / ("y" * LONGEST_PATH), tmp)
    assert far.stat().st_mode & 0o777 == 0o700
    far.parent.chmod(0o755)
    with pytest.raises(PermissionError, match="not a folder of yours alone"):
        sockets_dir(long, tmp)
