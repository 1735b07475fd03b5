"""A whole stack as a user has it: `trainshed up` as a process, and the command line to talk to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sysconfig
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from services.agent.processes import memory_cgroups, sweep
from tests.support.wire import Wire
from trainshed_client.endpoint import Endpoint, read_credentials, read_endpoint
from trainshed_client.errors import NobodyAnswers

T = TypeVar("T")

TRAINSHED = Path(sysconfig.get_path("scripts")) / "trainshed"
READY = "Trainshed is up"
_MARK = "TEST_STACK"
"""A variable that every process of a stack has, workers included (`marked`), and nothing else."""
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Its stdout."""
        return self.stdout.decode()

    @property
    def lines(self) -> list[str]:
        """Its stdout, line by line."""
        return self.text.splitlines()

    @property
    def json(self) -> Any:
        """Its one line of JSON."""
        (line,) = self.lines
        return json.loads(line)


def until(predicate: Callable[[], T], within: float = 10.0, *, what: str = "") -> T:
    """Ask until the answer is true, and return it; fails the test after ``within`` seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = predicate()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within} s: {what or predicate}; last {answer!r}"
        time.sleep(0.02)


def clean_environment(state_dir: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a user's shell has, and nothing of whoever runs the tests."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    own = {
        "TRAINSHED_STATE_DIR": str(state_dir),
        "CUDA_VISIBLE_DEVICES": "",
        "TRAINSHED_WORKER_USERS": "*=root",
    }
    return {**kept, **own, **(more or {})}


def marked(environment: Mapping[str, str], mark: str) -> dict[str, str]:
    """``environment`` for a process whose descendants all bear the mark."""
    passed_over = filter(None, (environment.get("TRAINSHED_WORKER_ENV"), _MARK))
    return {**environment, _MARK: mark, "TRAINSHED_WORKER_ENV": ",".join(passed_over)}


def run_trainshed(
    *words: str,
    environment: Mapping[str, str],
    code: int | None = 0,
    stdin: bytes = b"",
    cwd: Path | None = None,
    within: float = 30.0,
    by: Sequence[str] = (),
) -> Done:
    """One command to its end; fails the test where its exit code is not ``code`` (None: any). ``by``: what runs it."""
    ended = subprocess.run(
        [*by, str(TRAINSHED), *words],
        env=dict(environment),
        input=stdin,
        capture_output=True,
        timeout=within,
        cwd=cwd,
        check=False,
    )
    done = Done(ended.returncode, ended.stdout, ended.stderr.decode(errors="replace"))
    shown = f"trainshed {' '.join(words)}: exit {done.code}\n{done.stdout[-2000:]!r}\n{done.stderr[-3000:]}"
    assert code is None or done.code == code, shown
    assert "Traceback" not in done.stderr, shown
    return done


def service_endpoint(state_dir: Path, name: str = "operator") -> Endpoint:
    """How a service of that stack connects: one of the control side's roles, or `agent`."""
    return read_credentials(state_dir / "credentials" / f"{name}.json", given_by="the test")


class Stack:
    """One `trainshed up` on one state folder, which can be stopped, killed and started again."""

    def __init__(
        self,
        state_dir: Path,
        *,
        gpus: int = 2,
        cpus: int = 4,
        memory: int = 4096,
        node: str = "box",
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        hears_calls: bool = False,
    ) -> None:
        self.state_dir = state_dir
        self.node = node
        self.mark = uuid.uuid4().hex
        self.environment = clean_environment(state_dir, environment)
        self.log = state_dir.with_name(f"{state_dir.name}.up.log")
        self._cwd = cwd
        self._command = [
            *(str(TRAINSHED), "up", "--node", node, "--gpus", str(gpus)),
            *("--cpus", str(cpus), "--memory", str(memory), *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.wire: Wire | None = None
        """Hears what is published, to be held against the contract in the end; ``hears_calls``: requests and answers too."""
        self._hears_calls = hears_calls

    # --- its life -----------------------------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process of `trainshed up`."""
        assert self._process is not None, "the stack was never started"
        return self._process

    def start(self, *options: str, wait: bool = True) -> None:
        """Start it and wait for its ready line."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *options],
                env=marked(self.environment, self.mark),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._cwd,
            )
        if wait:
            self.wait_ready(begin)

    def wait_ready(self, begin: int = 0) -> None:
        """Wait for the ready line in what it has logged from ``begin`` on."""

        def ready() -> bool:
            assert self.process.poll() is None, (
                f"it ended with {self.process.returncode}:\n{self.said(begin)}"
            )
            return READY in self.said(begin)

        until(ready, 30.0, what=f"the ready line of {self.state_dir}:\n{self.said(begin)}")
        if self.wire is None:
            with contextlib.suppress(NobodyAnswers):  # it has no server of its own
                local = read_endpoint(self.state_dir)
                self.wire = Wire(service_endpoint(self.state_dir), calls=local if self._hears_calls else None)

    def unconfined(self) -> Endpoint:
        """A user of the control account who may do everything, until the server starts again: its configuration is read anew."""
        folder = self.state_dir / "nats"
        path = folder / "realm.conf"
        text = path.read_text()
        user = '{ user: "test", password: "test" }'
        if user not in text:
            before, users, after = text.partition("users: [")  # the control account's are the first
            path.write_text(f"{before}{users} {user}{after}")
            monitoring = json.loads((folder / "server.json").read_text())["monitor_port"]

            def loaded() -> str:
                with urllib.request.urlopen(f"http://127.0.0.1:{monitoring}/varz", timeout=5) as answer:
                    return str(json.load(answer)["config_load_time"])

            at = loaded()
            os.kill(int((folder / "server.pid").read_text()), signal.SIGHUP)
            until(lambda: loaded() != at, what="the server reads its configuration")
        return Endpoint(read_endpoint(self.state_dir).url, "test", "test")

    def said(self, begin: int = 0) -> str:
        """What it and its child processes have written to stderr."""
        with self.log.open("rb") as log:
            log.seek(begin)
            return log.read().decode(errors="replace")

    def warnings(self) -> list[dict[str, Any]]:
        """Its log lines from WARNING on."""
        lines = [json.loads(line) for line in self.said().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("level") in ("warning", "error", "critical")]

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = 5.0) -> int:
        """End it by a signal and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(within)

    def kill(self) -> None:
        """Kill it with -9; what it started dies by itself, workers and shims live on."""
        self.process.kill()
        self.process.wait(5)

    def close(self) -> None:
        """End it and everything that it ever started; fails the test where a message was none of the contract's."""
        if self.wire is not None:
            self.wire.stop()
        try:
            if self._process is not None and self._process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.stop(within=10.0)
                if self._process.poll() is None:
                    self.kill()
        finally:
            until(self._swept, 20.0, what=f"no process of {self.state_dir} left")
            with contextlib.suppress(FileNotFoundError):
                identity = json.loads((self.state_dir / "node.json").read_text())
                # Shims that are killed cannot remove their workers' cgroups.
                marks = sweep.Marks(identity["log_id"], identity["node"])
                sweep.end_worker_cgroups(sweep.cgroups_of(marks))
                memory_cgroups.remove_left(memory_cgroups.of_v1(marks))
        if self.wire is not None:
            self.wire.check()

    def _swept(self) -> bool:
        left = self.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    def processes(self) -> list[int]:
        """Every living process that this stack started, however far down (nats-server excepted)."""
        return [pid for pid, environ in _environs() if f"{_MARK}={self.mark}".encode() in environ]

    def workers(self) -> dict[str, list[int]]:
        """The living processes of workers, by run."""
        found: dict[str, list[int]] = {}
        mark = f"{_MARK}={self.mark}".encode()
        for pid, environ in _environs():
            if mark in environ:
                for word in environ:
                    if word.startswith(b"TRAINSHED_RUN_ID="):
                        found.setdefault(word.partition(b"=")[2].decode(), []).append(pid)
        return found

    def child(self, *words: str) -> int:
        """The pid of the child process of `up` whose command line has these words."""

        def look() -> int:
            for pid in _children(self.process.pid):
                with contextlib.suppress(OSError):
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    if all(any(word.encode() in part for part in command) for word in words):
                        return pid
            return 0

        return until(look, what=f"a child with {words}")

    # --- the command line ---------------------------------------------------------------------------------

    def trainshed(self, *words: str, json: bool = False, code: int | None = 0, **options: Any) -> Any:
        """Run a command: what ended (`Done`), or with ``json`` what its one line of JSON says."""
        if json:
            verb = 2 if words[0] in ("audit", "node", "user") else 1
            words = (*words[:verb], "--json", *words[verb:])
        environment = {**self.environment, **options.pop("environment", {})}
        done = run_trainshed(*words, environment=environment, code=code, **options)
        return done.json if json else done

    def submit(self, *words: str, shell: str | None = None, **options: Any) -> str:
        """Submit a run of its own: options, and `-- CMD` or a line for the shell; returns the run's id."""
        command = ("--", "/bin/sh", "-c", shell) if shell is not None else ()
        answer = self.trainshed("submit", "--new", *words, *command, json=True, **options)
        assert answer["created"] is True
        return str(answer["run_id"])

    def submit_config(self, config: Mapping[str, Any], *words: str, **options: Any) -> str:
        """Submit a run config as a file would be."""
        text = json.dumps({"submission_key": uuid.uuid4().hex, **config}).encode()
        answer = self.trainshed("submit", *words, "-f", "-", json=True, stdin=text, **options)
        assert answer["created"] is True
        return str(answer["run_id"])

    def wait(self, *runs: str, code: int | None = 0, timeout: str = "30s") -> list[dict[str, Any]]:
        """`trainshed wait`: the records of the runs once they have ended."""
        words = ("wait", "-q", "--timeout", timeout, *runs)
        records: list[dict[str, Any]] = self.trainshed(*words, json=True, code=code, within=60.0)["runs"]
        return records

    def show(self, run: str) -> dict[str, Any]:
        """`trainshed show`."""
        view: dict[str, Any] = self.trainshed("show", run, json=True)
        return view

    def record(self, run: str) -> dict[str, Any]:
        """A run's record."""
        record: dict[str, Any] = self.show(run)["run"]
        return record

    def holders(self) -> list[str | None]:
        """Who holds each slot."""
        return [slot["run_id"] for slot in self.trainshed("slots", json=True)["slots"]]

    def running(self, run: str) -> dict[str, Any]:
        """The record once the worker runs."""
        # Each question is a process of its own; the shim's file comes just before the answer is yes.
        folder = self.state_dir / "attempts" / run
        until(lambda: any(folder.glob("*/started.json")), what=f"{run} starts")

        def look() -> dict[str, Any] | None:
            record = self.record(run)
            assert record["ended_at"] is None, record
            return record if record["status"] == "RUNNING" else None

        record = until(look, what=f"{run} runs")
        assert record is not None
        return record

    def other_node(self, folder: Path) -> dict[str, str]:
        """The environment of another node's agent, until the server starts again."""
        endpoint = self.unconfined()
        return {
            **self.environment,
            "TRAINSHED_STATE_DIR": str(folder),
            "TRAINSHED_NATS_URL": endpoint.url,
            "TRAINSHED_NATS_USER": endpoint.user or "",
            "TRAINSHED_NATS_PASSWORD": endpoint.password or "",
        }

    @contextlib.contextmanager
    def far_node(self, folder: Path) -> Iterator[None]:
        """Meanwhile the agent of another node, `far`, with a state folder of its own and 4 GPUs, takes runs."""
        there = self.other_node(folder)
        agent = subprocess.Popen(
            [TRAINSHED, "agent", "--node", "far", "--gpus", "4", "--cpus", "1", "--memory", "100"],
            env=marked(there, self.mark),
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: "far" in self.trainshed("nodes").text, 20.0)
            yield
        finally:
            agent.terminate()
            agent.wait(10)

    def events(self, run: str | None = None) -> list[dict[str, Any]]:
        """The event log."""
        words = ("events", "--run", run) if run else ("events",)
        return [json.loads(line) for line in self.trainshed(*words).lines]

    def run_dir(self, run: str) -> Path:
        """A run's folder."""
        return self.state_dir / "runs" / run

    def stdout(self, run: str, attempt: int = 1) -> str:
        """What its worker has written so far."""
        return (self.run_dir(run) / "attempts" / str(attempt) / "stdout.log").read_text()


def alive(pid: int) -> bool:
    """Whether a process lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def rss_mb(pid: int) -> float:
    """The most memory that a process has had resident so far (MiB)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _environs() -> Iterator[tuple[int, list[bytes]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and alive(int(entry.name)):
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "environ").read_bytes().split(b"\0")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found
