"""One attempt, from the folder that an idle shim is handed to its exit.json: the shell around `core`.

Owns the poll loop, the notify socket and the attempt's files; decides nothing itself and knows no NATS.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import sys
import time
from dataclasses import asdict

from services.agent.shim import core, files, launch, notify, prefork, process_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

LONGEST_WAIT_S = 30.0
"""poll() does not count time that the machine slept, CLOCK_BOOTTIME does: so a deadline is looked at this often."""
DURABLE_AFTER_S = 0.02
"""started.json is fsynced this long after the worker's release; a worker that ends before needs no such file."""
RETELL_S = 0.05
RETRY_WRITE_S = 1.0
STAMPS=[]
def stamp(n): STAMPS.append((n,time.monotonic_ns()))
BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"


def boottime() -> float:
    """CLOCK_BOOTTIME in seconds: goes on while the machine sleeps, and no one sets it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def leave(why: str) -> NoReturn:
    """End without exec; whoever handed the folder over sees this process go."""
    print(f"shim {os.getpid()} leaves without exec: {why}", file=sys.stderr, flush=True)
    os._exit(0)


class Wakeups:
    """The signals that a shim acts on, as bytes in a pipe that poll() can wait for."""

    def __init__(self) -> None:
        self.fd, write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(write_fd, False)
        for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: None)
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)

    def take(self) -> set[int]:
        """The signals that came since the last call. A pipe that was full says nothing of the rest: take all."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.fd, 65536)
            if len(data) == 65536:
                return {signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2}
            return set(data)
        return set()


class Idle:
    """A shim that has no attempt yet, with everything done that does not depend on one."""

    def __init__(self) -> None:
        os.setsid()
        process_tree.become_subreaper()
        self.wakeups = Wakeups()
        self.worker = prefork.prefork()
        self.pid = os.getpid()
        self.start_time = process_tree.start_time(self.pid)
        self.pidfd = os.pidfd_open(self.pid)
        self.environment = dict(os.environ)
        with open(BOOT_ID_FILE) as file:
            self.boot_id = file.read().strip()
        self._warm_up()

    def _warm_up(self) -> None:
        """Go through the motions once: what runs for the first time after a fork pays for every page it touches."""
        raw = json.loads(launch.SAMPLE)
        intent = launch.read_intent(raw)
        launch.limits(intent)
        with contextlib.suppress(launch.SpawnError):
            prefork.pack(launch.command(intent, self.environment, "/"), ("", ""))
        os.path.lexists("exit.json")
        files.read_json("intent.json")
        files.take_lock()
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK).close()
        json.dumps({"v": 1, "at": time.time(), "text": "x"})

    def take_up(self, folder: str) -> NoReturn:
        """Run the attempt of that folder to its end; never returns (docs/protocol.md rule 9)."""
        stamp("take_up")
        try:
            os.chdir(folder)
        except OSError as error:
            leave(f"{folder}: {launch.why(error)}")
        lock = files.take_lock()
        if lock is None:
            leave(f"{folder}: no lock file, or another shim holds it")
        stamp("locked")
        for name in ("exit.json", "started.json", "stop.json"):
            if os.path.lexists(name):
                leave(f"{folder}: {name} exists")
        raw = files.read_json("intent.json")
        if raw is None or raw.get("boot_id") != self.boot_id:
            leave(f"{folder}: no intent.json of this boot")
        stamp("read")
        try:
            intent = launch.read_intent(raw)
            limits = launch.limits(intent)
        except (KeyError, TypeError, ValueError) as error:
            self._refuse(f"intent.json: {type(error).__name__}: {error}")
        stamp("parsed")
        Supervisor(self, intent, limits, folder).run()

    def _refuse(self, message: str) -> NoReturn:
        """An intent that this release cannot read is a spawn_error; there is no one to tell but exit.json."""
        self.worker.dismiss()
        end = core.WriteExit(core.Reason.SPAWN_ERROR, None, None, None, message, None, 0.0)
        files.write_json_durably("exit.json", exit_record(end, None))
        os._exit(0)


def exit_record(end: core.WriteExit, heartbeat: dict[str, object] | None) -> dict[str, object]:
    """exit.json's object."""
    return {
        "v": 1,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "reason": end.reason.value,
        "stop_reason": end.stop_reason,
        "message": end.message,
        "timeout_s": end.timeout_s,
        "duration_s": round(end.duration_s, 6),
        "ended_at": time.time(),
        "last_heartbeat": heartbeat,
    }


class Supervisor:
    """Carries out what `core` decides, for one attempt."""

    def __init__(self, idle: Idle, intent: launch.Intent, limits: core.Limits, folder: str) -> None:
        self._idle = idle
        self._intent = intent
        self._folder = folder
        self._worker = idle.worker
        self._state = core.State(limits)
        self._tree_gone = False
        self._coming_up = True
        self._sizes = (0, 0)
        self._started_fd: int | None = None
        self._durable_due = math.inf
        self._untold: list[core.Word] = []  # the agent's queue was full
        self._retell_due = math.inf
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._outputs = (f"{intent.output_dir}/stdout.log", f"{intent.output_dir}/stderr.log")

    def run(self) -> NoReturn:
        """Start the worker and see it to its end."""
        try:
            self._start()
            self._open_log()
            self._loop()
            stamp("loop end")
            print("STAMP %d"%([t for n,t in STAMPS if n=="released"][0]//1000)+" ".join(f"{n}+{(t-STAMPS[i-1][1])//1000 if i else t//1000}" for i,(n,t) in enumerate(STAMPS)),file=open("/tmp/h1/stamps","a"))
            with contextlib.suppress(OSError):
                os.unlink(self._intent.socket_path)
        except BaseException:  # noqa: BLE001 (whatever it was: it is logged, and the process ends)
            import traceback

            self._open_log()
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)  # the worker goes with us (PDEATHSIG); the agent writes shim_lost
        os._exit(0)

    def _start(self) -> None:
        idle = self._idle
        try:
            command = launch.command(self._intent, idle.environment, self._folder)
            stamp("command")
            self._bind()
            stamp("bound")
        except launch.SpawnError as error:
            self._no_worker(str(error))
            return
        except (KeyError, TypeError, ValueError, OSError) as error:
            self._no_worker(f"intent.json: {type(error).__name__}: {error}")
            return
        self._started_fd = files.write_json(
            "started.json",
            {
                "v": 1,
                "boot_id": idle.boot_id,
                "pid": self._worker.pid,
                "start_time": self._worker.start_time,
                "shim_pid": idle.pid,
                "shim_start_time": idle.start_time,
                "started_at": time.time(),
            },
        )
        stamp("started.json")
        with contextlib.suppress(BrokenPipeError):  # it was killed while idle: its exit says so
            self._worker.release(command, *self._outputs)
        stamp("released")
        self._durable_due = boottime() + DURABLE_AFTER_S

    def _no_worker(self, message: str) -> None:
        self._coming_up = False
        self._worker.dismiss()
        self._feed(core.ExecFailed(boottime(), message))

    def _bind(self) -> None:
        path = self._intent.socket_path
        for _ in range(2):
            try:
                self._notify.bind(path)
                return
            except FileNotFoundError:  # /tmp was tidied up
                os.makedirs(self._intent.sockets, mode=0o700, exist_ok=True)
            except OSError as error:
                if not os.path.lexists(path):
                    raise launch.SpawnError(f"notify socket {path}: {launch.why(error)}") from None
                os.unlink(path)  # left by a killed shim: we hold the attempt's lock
        self._notify.bind(path)

    def _open_log(self) -> None:
        """From here on stderr is the attempt's shim.log."""
        with contextlib.suppress(OSError):
            fd = os.open("shim.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            os.close(fd)

    def _loop(self) -> None:
        wakeups, status_fd = self._idle.wakeups, self._worker.status_fd
        poller = select.poll()
        poller.register(wakeups.fd, select.POLLIN)
        poller.register(self._notify.fileno(), select.POLLIN)
        if self._coming_up:
            poller.register(status_fd, select.POLLIN)
        while self._state.phase is not core.Phase.GONE:
            ready = {fd for fd, _ in poller.poll(self._wait_ms())}
            if status_fd in ready:
                poller.unregister(status_fd)
                self._see_exec()
            if wakeups.fd in ready:
                self._see_signals(wakeups.take())
            if self._notify.fileno() in ready:
                self._see_datagrams()
            now = boottime()
            if now >= self._durable_due:
                self._settle_started(durable=True)
            if now >= self._retell_due:
                self._retell_due, words, self._untold = math.inf, self._untold, []
                for word in words:
                    self._tell(word)
            deadline = core.next_deadline(self._state)
            if deadline is not None and now >= deadline:
                self._feed(core.Tick(now))

    def _wait_ms(self) -> int | None:
        deadline = core.next_deadline(self._state)
        due = min(math.inf if deadline is None else deadline, self._durable_due, self._retell_due)
        if due == math.inf:
            return None
        return math.ceil(max(0.0, min(due - boottime(), LONGEST_WAIT_S)) * 1000)

    def _see_exec(self) -> None:
        """The status pipe spoke or closed: the worker has exec'd, or never will."""
        if not self._coming_up:
            return
        self._coming_up = False
        message = self._worker.status()
        stamp("execd")
        if message is None:
            self._feed(core.Released(boottime(), self._worker.pid))
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._worker.pid, 0)
        with contextlib.suppress(OSError):
            os.unlink("started.json")
        self._feed(core.ExecFailed(boottime(), message))

    def _see_signals(self, numbers: set[int]) -> None:
        # Exits first: a worker that went by itself before we saw stop.json was not stopped.
        if signal.SIGCHLD in numbers:
            self._reap()
        if signal.SIGUSR1 in numbers:
            stop = files.read_json("stop.json")
            if stop is None:
                self._log("woken for stop.json, but there is none")
            else:
                self._feed(core.StopAsked(boottime(), str(stop.get("reason"))))
        if signal.SIGUSR2 in numbers and not self._coming_up:
            self._tell(core.Word.STARTED)
            if self._state.heartbeat.last_heartbeat_at is not None:
                self._tell(core.Word.HEARTBEAT)
        if signal.SIGTERM in numbers:
            self._log("SIGTERM does nothing to a shim; `trainshed cancel` ends its run")

    def _reap(self) -> None:
        ended, self._tree_gone = process_tree.reap()
        stamp("reaped")
        for pid, status in ended:
            if pid == self._worker.pid:
                self._see_exec()
                code = os.waitstatus_to_exitcode(status)
                number = -code if code < 0 else None
                self._feed(core.WorkerExited(boottime(), code if number is None else None, number))
        if self._tree_gone:
            self._feed(core.TreeGone(boottime()))

    def _see_datagrams(self) -> None:
        for _ in range(64):  # then signals and deadlines have their turn, however fast a worker tells
            try:
                datagram = self._notify.recv(notify.MAX_DATAGRAM)
            except BlockingIOError:
                return
            fields = notify.parse(datagram)
            if fields is not None:
                self._feed(core.Notified(boottime(), fields))

    def _feed(self, event: core.Input) -> None:
        self._state, actions = core.step(self._state, event)
        for action in actions:
            self._do(action)

    def _do(self, action: core.Action) -> None:
        match action:
            case core.SignalTree():
                if not self._tree_gone:
                    process_tree.signal_tree(action.signal)
            case core.KillTree():
                self._kill_tree()
            case core.CheckOutput():
                self._feed(core.OutputGrew(boottime(), self._output_age()))
            case core.TellAgent():
                self._tell(action.word)
            case core.WriteExit():
                self._write_exit(action)

    def _kill_tree(self) -> None:
        if not self._tree_gone:
            process_tree.kill_tree()
        for _ in range(100):
            if self._tree_gone:
                return
            process_tree.kill_children()
            self._reap()

    def _output_age(self) -> float | None:
        """Seconds since output last grew; None where it did not grow since the last look."""
        stats = []
        for path in self._outputs:
            with contextlib.suppress(OSError):
                stats.append(os.stat(path))
        sizes = (stats[0].st_size, stats[1].st_size) if len(stats) == 2 else self._sizes
        if sizes == self._sizes:
            return None
        self._sizes = sizes
        return max(0.0, time.time() - max(each.st_mtime for each in stats))

    def _write_exit(self, end: core.WriteExit) -> None:
        self._settle_started(durable=False)
        complained = False
        while True:
            try:
                files.write_json_durably("exit.json", exit_record(end, self._heartbeat()))
                return
            except FileNotFoundError:
                self._log("the attempt's folder is gone; its end is nowhere to be written")
                return
            except OSError as error:
                # A full disk must not lose an end: the lock is held until it is written.
                if not complained:
                    self._log(f"exit.json: {launch.why(error)}; trying again every {RETRY_WRITE_S:g} s")
                complained = True
                time.sleep(RETRY_WRITE_S)

    def _settle_started(self, *, durable: bool) -> None:
        fd, self._started_fd, self._durable_due = self._started_fd, None, math.inf
        if fd is not None:
            files.make_durable(fd) if durable else os.close(fd)

    def _heartbeat(self) -> dict[str, object] | None:
        """The heartbeat columns, times in Unix seconds; None where the worker told nothing."""
        heartbeat = self._state.heartbeat
        if heartbeat.last_heartbeat_at is None:
            return None
        columns = asdict(heartbeat)
        to_unix = time.time() - boottime()
        for name in ("ready_at", "last_heartbeat_at"):
            if columns[name] is not None:
                columns[name] = round(columns[name] + to_unix, 6)
        columns["metrics"] = dict(heartbeat.metrics)
        return columns

    def _tell(self, word: core.Word) -> None:
        message: dict[str, object] = {
            "v": 1,
            "kind": word.value,
            "run_id": self._intent.run_id,
            "attempt": self._intent.attempt,
        }
        if word is core.Word.HEARTBEAT:
            message.update(self._heartbeat() or {})
        try:
            self._notify.sendto(json.dumps(message).encode(), f"{self._intent.sockets}/agent.sock")
        except BlockingIOError:
            if word not in self._untold:
                self._untold.append(word)
            self._retell_due = boottime() + RETELL_S
        except OSError:
            pass  # no agent: when one is back it asks (SIGUSR2)

    def _log(self, text: str) -> None:
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}", file=sys.stderr, flush=True)
