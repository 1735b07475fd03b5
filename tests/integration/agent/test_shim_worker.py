"""One worker and its shim, real processes: every way to end, the limits, and what the agent hears meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.agent.folders.files import ExitReason, StopReason, read_started
from services.agent.processes.workers import ShimExited, WorkerStarted
from tests.support import eventually
from tests.support.shims import DAEMON, NOTIFY, Box, alive, box, found_by, kill, pid_in
from trainshed_client.statuses import AtFault

__all__ = ["found_by"]

DEAF = "import signal\nfor n in (signal.SIGTERM, signal.SIGINT): signal.signal(n, signal.SIG_IGN)\n"
BUSY = """
import os, time
done, mine = os.pipe()
forked = os.fork()
if forked == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
else:
    os.waitpid(forked, 0)
held = bytearray(120 << 20)
while time.process_time() < 0.3:
    pass
os.close(mine)
if forked:
    os.read(done, 1)
"""
"""A worker and its daemon, each for 0.3 s of CPU; the worker ends last."""
WAIT = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Box]:
    """A box whose agent has two secrets in its environment."""
    environment = {
        **os.environ,
        "HF_TOKEN": "s3cret-from-env",
        "NATS_PASSWORD": "agents-own",
        "NOTIFY_SOCKET": "/x",
    }
    async with box(tmp_path / "state", environment) as made:
        yield made


@pytest.mark.parametrize("code", [0, 3])
async def test_an_exit_code_is_written_down(here: Box, code: int) -> None:
    folder = await here.python("run", f"import sys; sys.exit({code})")
    end = await here.ended(folder)
    assert (end.reason, end.exit_code, end.signal, end.stop_reason) == (ExitReason.EXITED, code, None, None)
    assert end.v == 1
    assert end.duration_s > 0
    assert [type(event) for event in here.events] == [WorkerStarted, ShimExited]


@pytest.mark.usefixtures("found_by")
async def test_what_the_tree_used_is_written_down_also_of_who_daemonised(here: Box) -> None:
    folder = await here.python("run", BUSY)
    usage = (await here.ended(folder)).usage
    assert usage is not None and usage.cpu_s is not None and usage.memory_peak_mb is not None
    assert usage.cpu_s >= 0.6
    assert usage.memory_peak_mb >= 120
    assert (usage.gpu_busy_s, usage.gpu_memory_peak_mb) == (None, None)


async def test_a_worker_killed_by_a_signal_is_written_down(here: Box) -> None:
    folder = await here.python("run", WAIT)
    started = await here.started(folder)
    await here.said(folder, "up")
    kill(started.started.pid)
    end = await here.ended(folder)
    assert (end.reason, end.exit_code, end.signal) == (ExitReason.SIGNALLED, None, signal.SIGKILL)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"entry_point": "/x/y"}, "/x/y: no such file"),
        ({"entry_point": "/etc/passwd"}, "/etc/passwd: not executable"),
        ({"entry_point": "/bin/true", "working_dir": "/x/y"}, "working_dir /x/y: no such folder"),
        (
            {"entry_point": "/bin/true", "secrets": {"K": {"file": "/x/key"}}},
            "secret K: /x/key: no such file",
        ),
        ({"entry_point": "/bin/true", "stop": {"signal": "SIGNOTHING"}}, "intent.json"),
        ({"entry_point": "/bin/true", "arguments": "not a list"}, "intent.json"),
        ({"entry_point": "/bin/true", "arguments": ["x" * 200_000]}, "too long"),
    ],
)
async def test_what_cannot_start_is_a_spawn_error_that_says_why(
    here: Box, config: dict[str, Any], message: str
) -> None:
    folder = await here.launch("run", **config)
    end = await here.ended(folder)
    assert (end.reason, end.exit_code, end.signal) == (ExitReason.SPAWN_ERROR, None, None)
    assert end.at_fault is AtFault.RUN
    assert message in (end.message or "")
    assert not (folder / "started.json").exists()
    assert [type(event) for event in here.events] == [ShimExited]


async def test_where_output_has_no_place_the_node_is_at_fault(here: Box) -> None:
    folder = here.prepare("run", entry_point="/bin/true")
    (here.run_dir(folder) / "attempts" / "1").rmdir()
    await here.workers.launch(folder)
    end = await here.ended(folder)
    assert (end.reason, end.at_fault) == (ExitReason.SPAWN_ERROR, AtFault.NODE)
    assert "stdout.log: no such file" in (end.message or "")


async def test_where_a_run_has_no_folder_of_its_own_to_work_in_the_node_is_at_fault(here: Box) -> None:
    folder = here.prepare("run", entry_point="/bin/true")
    shutil.rmtree(here.run_dir(folder))
    await here.workers.launch(folder)
    assert (await here.ended(folder)).at_fault is AtFault.NODE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/no/such/interpreter\n", "interpreter"),
        ("echo no shell guesses what this is\n", "#! line missing"),
    ],
)
async def test_a_script_that_the_kernel_refuses_is_a_spawn_error(
    here: Box, tmp_path: Path, text: str, message: str
) -> None:
    script = tmp_path / "script"
    script.write_text(text)
    script.chmod(0o755)
    end = await here.ended(await here.launch("run", entry_point=str(script)))
    assert end.reason is ExitReason.SPAWN_ERROR
    assert message in (end.message or "")
    assert str(script) in (end.message or "")


async def test_output_goes_straight_to_its_files(here: Box) -> None:
    folder = await here.python(
        "run", "import os; os.write(1, b'out'); os.write(2, b'err'); print(' and more')"
    )
    await here.ended(folder)
    assert (here.output(folder), here.output(folder, "stderr")) == ("out and more\n", "err")


async def test_the_worker_has_a_clean_process_and_the_environment_that_the_design_names(here: Box) -> None:
    code = """
import json, os, signal
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps({
    "environment": dict(os.environ), "cwd": os.getcwd(), "leader": os.getpgid(0) == os.getpid() == os.getsid(0),
    "fds": sorted(int(n) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")),
    "blocked": int(status["SigBlk"], 16), "stdin": os.readlink("/proc/self/fd/0"),
    "append": bool(int([l for l in open("/proc/self/fdinfo/1") if l.startswith("flags")][0].split()[1], 8) & os.O_APPEND),
    "umask": status["Umask"].strip(),
}))
"""
    folder = await here.python("run", code, environment={"DECLARED": "{{run_id}}"})
    await here.ended(folder)
    seen = json.loads(here.output(folder))
    environment = seen["environment"]
    assert "NATS_PASSWORD" not in environment
    assert environment["DECLARED"] == environment["TRAINSHED_RUN_ID"] == folder.parent.name
    assert environment["TRAINSHED_LOG_ID"] == here.log_id
    assert environment["NOTIFY_SOCKET"].startswith(str(here.workers.sockets_dir))
    assert seen["cwd"] == str(here.run_dir(folder))
    assert (seen["leader"], seen["fds"], seen["blocked"]) == (True, [0, 1, 2], 0)
    assert (seen["stdin"], seen["append"]) == ("/dev/null", True)
    umask = os.umask(0)
    os.umask(umask)
    assert int(seen["umask"], 8) == umask


async def test_no_signal_is_ignored_or_blocked_in_the_worker(here: Box) -> None:
    # Not through a shell, which blocks SIGCHLD now and then.
    folder = await here.launch(
        "run", entry_point="grep", arguments=["-E", "Sig(Ign|Blk)", "/proc/self/status"]
    )
    await here.ended(folder)
    # 32 and 33 are the C library's own: no program can set them, so a worker has them as whoever started us had.
    ours = ~(0b11 << 31)
    masks = {line.split()[0]: int(line.split()[1], 16) & ours for line in here.output(folder).splitlines()}
    assert masks == {"SigBlk:": 0, "SigIgn:": 0}


async def test_no_secret_is_in_a_file_of_ours(here: Box, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret-from-file\n")
    secrets = {"KEY": {"file": str(tmp_path / "key")}, "TOKEN": {"env": "HF_TOKEN"}}
    folder = await here.launch(
        "run", entry_point="/bin/sh", arguments=["-c", 'echo "$KEY $TOKEN"'], secrets=secrets
    )
    await here.ended(folder)
    # The same with an exec that fails, whose message must not quote the environment.
    failed = await here.launch("bad", entry_point="/x/y", secrets=secrets)
    await here.ended(failed)
    assert here.output(folder) == "s3cret-from-file s3cret-from-env\n"
    own = [path for path in here.state_dir.rglob("*") if path.is_file() and path.name != "stdout.log"]
    assert {"exit.json", "started.json", "intent.json", "spawner.log"} <= {path.name for path in own}
    assert [path for path in own if b"s3cret" in path.read_bytes()] == []


# To stop


@pytest.mark.usefixtures("found_by")
async def test_a_stop_reaches_the_worker_and_its_daemonised_grandchild(here: Box, tmp_path: Path) -> None:
    daemon = tmp_path / "daemon"
    folder = await here.python("run", f"{DAEMON}\ndaemonise({str(daemon)!r})\n{WAIT}", stop={"grace_s": 0.2})
    pid = await pid_in(daemon)
    assert os.getsid(pid) != os.getsid((await here.started(folder)).started.pid)
    await here.stop(folder)
    end = await here.ended(folder)
    assert not alive(pid)
    assert (end.reason, end.signal, end.stop_reason) == (
        ExitReason.STOPPED,
        signal.SIGTERM,
        StopReason.CANCEL,
    )


async def test_what_a_worker_leaves_behind_is_ended_before_its_end_is_written(
    here: Box, tmp_path: Path
) -> None:
    daemon = tmp_path / "daemon"
    code = (
        f"{DAEMON}\ndaemonise({str(daemon)!r})\nwhile not os.path.exists({str(daemon)!r}): time.sleep(0.01)\n"
    )
    folder = await here.python("run", code, stop={"grace_s": 0.2})
    end = await here.ended(folder)
    assert not alive(await pid_in(daemon))
    assert (end.reason, end.exit_code) == (ExitReason.EXITED, 0)


async def test_a_worker_that_ignores_the_stop_signal_is_killed_after_the_grace(here: Box) -> None:
    folder = await here.python("run", DEAF + WAIT, stop={"grace_s": 0.2})
    await here.said(folder, "up")
    await here.stop(folder, StopReason.RECLAIMED)
    end = await here.ended(folder)
    assert (end.signal, end.stop_reason) == (signal.SIGKILL, StopReason.RECLAIMED)


async def test_a_worker_may_choose_its_stop_signal_and_its_own_exit_code(here: Box) -> None:
    code = "import signal, sys\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(7))\n" + WAIT
    folder = await here.python("run", code, stop={"signal": "SIGINT", "grace_s": 30})
    await here.said(folder, "up")
    await here.stop(folder)
    end = await here.ended(folder)
    assert (end.reason, end.exit_code, end.stop_reason) == (ExitReason.STOPPED, 7, StopReason.CANCEL)


async def test_a_worker_that_was_stopped_with_sigstop_still_acts_on_a_stop(here: Box) -> None:
    code = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n" + WAIT
    folder = await here.python("run", code, stop={"grace_s": 30})
    await here.said(folder, "up")
    os.kill((await here.started(folder)).started.pid, signal.SIGSTOP)
    await here.stop(folder)
    assert (await here.ended(folder)).exit_code == 7


@pytest.mark.usefixtures("found_by")
@pytest.mark.parametrize("leave_group", [False, True])
async def test_a_worker_that_forks_on_and_on_loses(here: Box, leave_group: bool) -> None:
    # Two chains of processes, each link alive for about a millisecond, deaf to the stop signal. At most a few live
    # at any time and the chains end by themselves after 20 s, so that a shim that loses harms no one else.
    code = f"""
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
give_up = time.monotonic() + 20
os.fork()
while time.monotonic() < give_up:
    if os.fork():
        os._exit(0)
    if {leave_group}:
        os.setsid()
"""
    folder = await here.python("run", code, stop={"grace_s": 0.1})
    await here.said(folder, "up")
    await here.stop(folder)
    await here.ended(folder)
    assert [pid for pid in here.marked(folder) if alive(pid)] == []


@pytest.mark.usefixtures("found_by")
async def test_a_wide_tree_of_deaf_processes_is_killed_to_the_last(here: Box) -> None:
    code = f"""{DEAF}
import os, time
for _ in range(5):
    os.fork()  # 32 processes
print("up", flush=True)
time.sleep(60)
"""
    folder = await here.python("run", code, stop={"grace_s": 0.1})
    await eventually(lambda: here.output(folder).count("up") == 32, 10.0)
    tree = here.marked(folder)
    assert len(tree) == 32
    await here.stop(folder)
    await here.ended(folder)
    assert [pid for pid in tree if alive(pid)] == []


async def test_sigterm_to_the_shim_itself_does_nothing_but_a_line_in_its_log(here: Box) -> None:
    folder = await here.python("run", WAIT)
    started = (await here.started(folder)).started
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(started.shim_pid, number)
    await eventually(
        lambda: (folder / "shim.log").exists() and "SIGTERM" in (folder / "shim.log").read_text()
    )
    assert alive(started.shim_pid)
    await here.stop(folder)
    assert (await here.ended(folder)).signal == signal.SIGTERM


# Limits


async def test_the_time_limit_ends_the_worker(here: Box) -> None:
    folder = await here.python("run", WAIT, schedule={"max_duration_seconds": 0.4})
    end = await here.ended(folder)
    assert (end.reason, end.timeout_s, end.signal) == (ExitReason.TIME_LIMIT, 0.4, signal.SIGTERM)
    assert end.duration_s >= 0.4


async def test_a_silent_notify_worker_is_timed_out_and_one_that_speaks_is_not(here: Box) -> None:
    beat = {"source": "notify", "timeout_s": 0.6}
    silent = await here.python("silent", WAIT, heartbeat=beat)
    code = f"{NOTIFY}\nimport time\nfor _ in range(12): notify('WATCHDOG=1'); time.sleep(0.1)\n"
    speaking = await here.python("speaking", code, heartbeat=beat)
    end = await here.ended(silent)
    assert (end.reason, end.timeout_s) == (ExitReason.WORKER_TIMEOUT, 0.6)
    end = await here.ended(speaking)
    assert (end.reason, end.exit_code) == (ExitReason.EXITED, 0)
    assert end.duration_s > 0.6


async def test_garbage_is_no_sign_of_life_and_does_no_harm(here: Box) -> None:
    code = f"""{NOTIFY}
import time
notify("X_STEP=1")
while True:
    for text in (b"\\xff\\xfe", b"", b"x" * 60000, b"X_STEP=" + b"9" * 9000, "X_METRIC_loss=1,5"):
        notify(text)
    time.sleep(0.05)
"""
    folder = await here.python("run", code, heartbeat={"source": "notify", "timeout_s": 0.6})
    end = await here.ended(folder)
    assert end.reason is ExitReason.WORKER_TIMEOUT
    assert end.last_heartbeat is not None
    assert (end.last_heartbeat.step, end.last_heartbeat.metrics) == (1, {})
    assert end.last_heartbeat.passed_over == {"value": f"X_STEP={'9' * 93}"}


async def test_a_worker_of_which_nothing_could_be_taken_is_told_so(here: Box) -> None:
    code = f"{NOTIFY}\nnotify('X_METRIC_loss=1,5')\nnotify('X_STEPS=1')"
    end = await here.ended(await here.python("run", code))
    assert end.last_heartbeat is not None
    assert end.last_heartbeat.last_heartbeat_at is None
    assert end.last_heartbeat.passed_over == {"value": "X_METRIC_loss=1,5", "key": "X_STEPS"}


async def test_what_was_sent_before_the_end_counts_though_both_are_seen_at_once(
    here: Box, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    code = f"{NOTIFY}\nimport os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nnotify('X_STEP=7')"
    folder = await here.python("run", code)
    started = (await here.started(folder)).started
    os.kill(started.shim_pid, signal.SIGSTOP)
    try:
        go.touch()
        await eventually(lambda: " Z " in Path(f"/proc/{started.pid}/stat").read_text(), 10)
    finally:
        os.kill(started.shim_pid, signal.SIGCONT)
    end = await here.ended(folder)
    assert end.last_heartbeat is not None
    assert end.last_heartbeat.step == 7


async def test_the_nodes_time_out_holds_where_the_run_names_none(here: Box) -> None:
    folder = await here.python("run", WAIT, heartbeat={"source": "notify"}, node_timeout_s=0.3)
    assert (await here.ended(folder)).timeout_s == 0.3


async def test_the_source_process_needs_no_heartbeat(here: Box) -> None:
    folder = await here.python("run", "import time; time.sleep(0.8)", heartbeat={"timeout_s": 0.2})
    assert (await here.ended(folder)).reason is ExitReason.EXITED


async def test_silence_times_an_output_worker_out_and_each_line_puts_it_off(here: Box) -> None:
    beat = {"source": "output", "timeout_s": 0.6}
    code = "import sys, time\nfor n in range(12): print(n, file=(sys.stdout, sys.stderr)[n % 2], flush=True); time.sleep(0.1)\n"
    writing = await here.python("writing", code, heartbeat=beat)
    silent = await here.python("silent", code + "time.sleep(600)\n", heartbeat=beat)
    end = await here.ended(writing)
    assert (end.reason, end.exit_code) == (ExitReason.EXITED, 0)
    end = await here.ended(silent)
    assert (end.reason, end.timeout_s) == (ExitReason.WORKER_TIMEOUT, 0.6)
    assert end.duration_s > 1.2


async def test_a_file_servers_clock_that_is_behind_makes_no_output_old(here: Box) -> None:
    code = """
import os, sys, time
for n in range(15):
    print(n, flush=True)
    os.utime("/proc/self/fd/1", (time.time() - 600,) * 2)
    time.sleep(0.1)
"""
    folder = await here.python("run", code, heartbeat={"source": "output", "timeout_s": 0.6})
    assert (await here.ended(folder)).reason is ExitReason.EXITED


# What the agent hears


TOLD = {"reward": 1.5, "loss": "NaN", "acc@1": "-Infinity"}


async def test_what_a_worker_tells_reaches_the_agent_and_its_exit(here: Box) -> None:
    code = f"""{NOTIFY}
notify("READY=1\\nX_STEP=3\\nX_PROGRESS=0.25\\nSTATUS=step 3\\nX_METRIC_reward=1.5")
notify("X_STEP=4\\nX_METRIC_loss=nan\\nX_METRIC_acc@1=-inf\\nX_PRIMARY=acc@1")
{WAIT}"""
    folder = await here.python("run", code)
    beat = await here.heartbeat(folder, lambda beat: beat.step == 4)
    assert (beat.progress, beat.status_text, beat.metrics) == (0.25, "step 3", TOLD)
    started = (await here.started(folder)).started
    assert beat.ready_at is not None
    assert beat.last_heartbeat_at is not None
    assert started.started_at <= beat.ready_at <= beat.last_heartbeat_at <= started.started_at + 60
    await here.stop(folder)
    last = (await here.ended(folder)).last_heartbeat
    assert last is not None
    assert (last.step, last.metrics) == (4, TOLD)
    assert last.primary_metric == beat.primary_metric == "acc@1"


async def test_what_a_worker_measures_is_written_down_message_by_message_also_with_no_agent(
    here: Box,
) -> None:
    code = """
import os, time
for step in range(200):
    notify(f"X_STEP={step}\\nX_METRIC_loss={step / 2}")
notify("X_PROGRESS=0.5")
notify("X_METRIC_reward=7\\nX_PROGRESS=1")
while not os.path.exists("go_on"): time.sleep(0.01)
notify("X_STEP=200")
"""
    folder = await here.python("metrics", NOTIFY + code)
    await here.let_go()
    path = here.run_dir(folder) / "attempts" / "1" / "metrics.jsonl"

    def written() -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    await eventually(lambda: len(written()) == 201, 10.0)
    (here.run_dir(folder) / "go_on").touch()
    await eventually(lambda: (folder / "exit.json").exists(), 10.0)
    lines = written()
    assert [line["step"] for line in lines] == [*range(200), None, 200]
    assert [line["metrics"] for line in lines[:200]] == [{"loss": step / 2} for step in range(200)]
    assert (lines[200]["metrics"], lines[200]["progress"], lines[201]["metrics"]) == ({"reward": 7}, 1, {})
    times = [line["time"] for line in lines]
    assert times == sorted(set(times)) and datetime.fromisoformat(times[0]).utcoffset() == timedelta()


async def test_the_largest_report_reaches_the_agent_whole(here: Box) -> None:
    """Each name of the longest that there is, of the characters that are longest in JSON."""
    code = f"""{NOTIFY}
notify("STATUS=" + 512 * chr(0x20000) + "".join(f"\\nX_METRIC_{{chr(0x20000) * 98}}{{n}}=-1.2345678901234567e-300" for n in range(10, 74)))
{WAIT}"""
    beat = await here.heartbeat(await here.python("run", code), lambda beat: beat.status_text is not None)
    assert len(beat.metrics) == 64
    assert {len(name) for name in beat.metrics} == {100}


async def test_a_flood_of_heartbeats_reaches_the_agent_as_a_few(here: Box) -> None:
    code = f"{NOTIFY}\nfor step in range(20_000): notify(f'X_STEP={{step}}')\n{WAIT}"
    folder = await here.python("run", code)
    await here.heartbeat(folder, lambda beat: beat.step == 19_999)
    assert len(here.events) < 60


async def test_started_names_worker_and_shim_by_pid_and_start_time(here: Box) -> None:
    folder = await here.python("run", WAIT)
    started = (await here.started(folder)).started
    assert started == read_started(folder)
    for pid, ticks in ((started.pid, started.start_time), (started.shim_pid, started.shim_start_time)):
        assert int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) == ticks
    assert Path(f"/proc/{started.shim_pid}/cwd").resolve() == folder
    environment = Path(f"/proc/{started.shim_pid}/environ").read_bytes().split(b"\0")
    assert f"TRAINSHED_LOG_ID={here.log_id}".encode() in environment
    assert not [each for each in environment if each.startswith(b"TRAINSHED_RUN_ID")]


async def test_many_at_once_all_run(here: Box) -> None:
    folders = [
        here.prepare(f"run{n}", entry_point="/bin/sh", arguments=["-c", f"exit {n}"]) for n in range(20)
    ]
    await asyncio.gather(*(here.workers.launch(folder) for folder in folders))
    assert [(await here.ended(folder)).exit_code for folder in folders] == list(range(20))
    assert list(here.workers.sockets_dir.glob(f"{os.getpid()}.sock")) == []


def test_the_shim_imports_nothing_but_the_standard_library() -> None:
    code = (
        "import sys, services.agent.shim.spawner as s\n"
        "print([n for n in sys.modules if n.split('.')[0] not in sys.stdlib_module_names and not n.startswith('services')"
        " and not n.startswith(('_distutils_hack', '_editable', '__'))], 'asyncio' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[] False"
