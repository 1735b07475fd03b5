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
import struct
import time

from services.agent.shim import (
    cgroup,
    core,
    core_types,
    files,
    home,
    launch,
    memory_watch,
    metrics_file,
    metrics_writer,
    notify,
    notify_socket,
    numbers,
    output_watch,
    prefork,
    process_tree,
    usage,
    values,
)
from services.failpoints import failpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

LONGEST_WAIT_S = 30.0
"""poll() does not count time that the machine slept, CLOCK_BOOTTIME does: so a deadline is looked at this often."""
DURABLE_AFTER_S = 0.02
"""started.json is fsynced this long after the worker's release; a worker that ends before needs no such file."""
RESEND_S = 0.05
RETRY_WRITE_S = 1.0
MOST_WAITING = 1024
"""Datagrams read at an end: above what a kernel lets wait in a socket (net.unix.max_dgram_qlen; systemd sets 512)."""
TAKEN = struct.Struct("=i")
"""What the spawner hears on its pipe: the pid of a shim that is no longer idle."""
BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"


def boottime() -> float:
    """CLOCK_BOOTTIME in seconds: goes on while the machine sleeps, and no one sets it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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


def run(requests: socket.socket, taken_fd: int, sockets: str, cgroups: str, memory_cgroups: str) -> NoReturn:
    """A shim's whole life: idle until its waiting process has taken up an attempt, then that attempt to its end.

    `sockets` is where the notify socket goes, `cgroups` where the cgroup of its worker does and `memory_cgroups` the one in
    which its memory counts (empty: nowhere); everything that depends on no attempt is done before there is one.
    """
    os.setsid()
    process_tree.become_subreaper()
    wakeups = Wakeups()
    pid = os.getpid()
    listener = notify_socket.NotifySocket(f"{sockets}/{pid}.sock")
    with open(BOOT_ID_FILE) as file:
        boot_id = file.read().strip()
    start_time = process_tree.start_time(pid)
    worker_cgroup = cgroup.path_of(cgroups, pid, start_time)
    memory_cgroup = cgroup.path_of(memory_cgroups, pid, start_time)
    shim = prefork.Shim(
        pid=pid,
        start_time=start_time,
        boot_id=boot_id,
        notify_path=listener.path,
        notify_error=listener.error,
        worker_cgroup=worker_cgroup,
        memory_cgroup=memory_cgroup,
    )
    worker = prefork.fork(shim, requests)
    pidfd = os.pidfd_open(pid)
    handed = worker.handed(wakeups.fd, requests, listener.restore)
    if handed is not None:
        with contextlib.suppress(OSError):  # the agent is gone: the next one finds us by started.json
            socket.send_fds(requests, [b"%d\0%s" % (pid, os.fsencode(handed.folder))], [pidfd])
        with contextlib.suppress(OSError):
            os.write(taken_fd, TAKEN.pack(pid))
    requests.close()
    os.close(taken_fd)
    os.close(pidfd)
    if handed is not None and handed.folder_fd >= 0:
        os.fchdir(handed.folder_fd)
        os.close(handed.folder_fd)
        Supervisor(wakeups, worker, listener, handed, worker_cgroup, memory_cgroup).run()
    listener.remove()
    if worker_cgroup or memory_cgroup:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(worker.pid, 0)  # one that left without exec may not have ended yet
        for path in {worker_cgroup, memory_cgroup} - {""}:
            cgroup.remove(path)
    os._exit(0)


def exit_file(
    end: core_types.WriteExit, heartbeat: dict[str, object] | None, usage: dict[str, object] | None
) -> dict[str, object]:
    """exit.json's object."""
    return {
        "v": 1,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "reason": end.reason.value,
        "stop_reason": end.stop_reason,
        "message": end.message,
        "at_fault": end.at_fault,
        "timeout_s": end.timeout_s,
        "duration_s": round(end.duration_s, 6),
        "ended_at": time.time(),
        "last_heartbeat": heartbeat,
        "usage": usage,
    }


class Supervisor:
    """Carries out what `core` decides, for one attempt."""

    def __init__(
        self,
        wakeups: Wakeups,
        worker: prefork.Prefork,
        listener: notify_socket.NotifySocket,
        handed: prefork.Handed,
        worker_cgroup: str,
        memory_cgroup: str,
    ) -> None:
        self._wakeups = wakeups
        self._worker = worker
        self._coming_up = handed.coming_up
        self._worker_cgroup, self._memory_cgroup = worker_cgroup, memory_cgroup
        self._listener = listener
        self._home = home.Home(handed.folder, handed.lock_fd)
        raw = self._home.intent
        memory_mb = raw.get("memory_mb")
        self._memory = memory_watch.MemoryWatch(memory_cgroup, memory_mb if isinstance(memory_mb, int) else 0)
        self._run_id, self._attempt = handed.folder.rsplit("/", 2)[-2:]
        self._agent = f"{raw.get('sockets')}/agent.sock"
        output_dir = raw.get("output_dir")
        try:
            intent = launch.read_intent(raw)
            limits = launch.limits(intent)
        except (KeyError, TypeError, ValueError):
            limits = core_types.Limits()  # the waiting process refuses it, with the reason
        else:
            listener.owner = None if intent.user is None else (intent.user.uid, intent.user.gid)
        self._state = core_types.ShimState(limits)
        self._output = None
        if limits.source is core_types.Source.OUTPUT and limits.heartbeat_timeout_s is not None:
            outputs = (f"{output_dir}/stdout.log", f"{output_dir}/stderr.log")
            self._output = output_watch.OutputWatch(outputs, limits.heartbeat_timeout_s, boottime)
        self._metrics = metrics_writer.MetricsWriter(f"{output_dir}/{metrics_file.NAME}", self._send_written)
        self._tree_gone = False
        self._logging = False
        self._durable_due = math.inf
        self._unsent: list[core_types.ShimMessage] = []  # the agent's queue was full
        self._resend_due = math.inf

    def run(self) -> None:
        """See the worker to its end."""
        try:
            if self._coming_up:
                self._see_stop()  # a signal that came before there was an attempt is lost
            else:
                self._see_exec()
            self._loop()
        except BaseException:  # noqa: BLE001 (whatever it was: it is logged, and the process ends)
            import traceback

            self._log(traceback.format_exc())
            os._exit(1)  # the worker goes with us (PDEATHSIG); the agent writes shim_lost

    def _loop(self) -> None:
        wakeups, listener_fd, channel = self._wakeups, self._listener.socket.fileno(), self._worker.channel
        poller = select.poll()
        poller.register(wakeups.fd, select.POLLIN)
        poller.register(listener_fd, select.POLLIN)
        if self._coming_up:
            poller.register(channel, 0)
        if self._memory.fd >= 0:
            poller.register(self._memory.fd, select.POLLIN)
        while self._state.phase is not core_types.ShimPhase.GONE:
            ready = {fd for fd, _ in poller.poll(self._wait_ms())}
            if channel.fileno() in ready:
                poller.unregister(channel)
                self._see_exec()
            if wakeups.fd in ready:
                self._see_signals(wakeups.take())
            if listener_fd in ready:
                self._see_datagrams()
            now = boottime()
            if self._memory.fd in ready:
                self._memory.woken(now)
            if now >= self._memory.due and (why := self._memory.look(now)) is not None:
                self._feed(core_types.OutOfMemory(now, why))
            if now >= self._durable_due:
                self._durable_due = math.inf
                self._home.started()
            if now >= self._metrics.due:
                self._metrics.write(now)
            if now >= self._resend_due:
                self._resend_due, messages, self._unsent = math.inf, self._unsent, []
                for message in messages:
                    self._send(message)
            deadline = core.next_deadline(self._state)
            if deadline is not None and now >= deadline:
                self._feed(core_types.Tick(now))

    def _wait_ms(self) -> int | None:
        deadline = core.next_deadline(self._state)
        due = min(
            math.inf if deadline is None else deadline,
            self._durable_due,
            self._resend_due,
            self._memory.due,
            self._metrics.due,
        )
        if due == math.inf:
            return None
        return math.ceil(max(0.0, min(due - boottime(), LONGEST_WAIT_S)) * 1000)

    def _see_exec(self) -> None:
        """The worker has exec'd, or never will."""
        hung, self._coming_up = self._coming_up, False
        pid, failure = self._worker.pid, self._worker.failure()
        # Killed before exec it leaves no failure either. That is looked at only where there was time for it.
        killed = failure is None and hung and process_tree.before_exec(pid)
        if failure is None and not killed:
            failpoint("shim.released")
            self._durable_due = boottime() + DURABLE_AFTER_S
            self._feed(core_types.Released(boottime(), pid))
            if self._output is not None:
                self._output.start()
            if hung:
                self._reap()  # it may have ended by now, and its signal been taken while it was coming up
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        with contextlib.suppress(OSError):
            os.unlink("started.json")
        if failure is None and (why := self._memory.why_ended()) is not None:
            failure = why, launch.RUN
        if failure is None:
            self._feed(core_types.EndedBeforeExec())
        else:
            self._feed(core_types.ExecFailed(boottime(), *failure))

    def _see_stop(self) -> bool:
        """Look for stop.json; whether there is one. It is at the folder's path also where ours has vanished from there."""
        stop = files.read_json(f"{self._home.folder}/stop.json")
        if stop is not None:
            self._feed(core_types.StopAsked(boottime(), str(stop.get("reason"))))
        return stop is not None

    def _see_signals(self, numbers: set[int]) -> None:
        # Exits first: a worker that went by itself before we saw stop.json was not stopped.
        if signal.SIGCHLD in numbers:
            self._reap()
        if signal.SIGUSR1 in numbers and not self._see_stop():
            self._log("woken for stop.json, but there is none")
        if signal.SIGUSR2 in numbers:
            self._listener.restore()
        if signal.SIGUSR2 in numbers and not self._coming_up:
            with contextlib.suppress(OSError):  # asked again
                self._home.restore()
            self._send(core_types.ShimMessage.STARTED)
            if self._heartbeat() is not None:
                self._send(core_types.ShimMessage.HEARTBEAT)
        if signal.SIGTERM in numbers:
            self._log("SIGTERM does nothing to a shim; `trainshed cancel` ends its run")

    def _reap(self) -> None:
        if self._coming_up:
            return  # it has no child yet, and its own end is seen on the channel
        ended, self._tree_gone = process_tree.reap()
        if ended:
            # Sent before the end, and nobody looks at the socket once it is written.
            self._see_datagrams(MOST_WAITING)
        for pid, status in ended:
            if pid == self._worker.pid:
                code = os.waitstatus_to_exitcode(status)
                number = -code if code < 0 else None
                why = self._memory.why_ended() if code != 0 else None
                exit_code = code if number is None else None
                self._feed(core_types.WorkerExited(boottime(), exit_code, number, why))
        if self._tree_gone:
            failpoint("shim.tree_gone")
            self._feed(core_types.TreeGone(boottime()))

    def _see_datagrams(self, most: int = 64) -> None:
        for _ in range(most):  # then signals and deadlines have their turn, however fast a worker tells
            try:
                datagram = self._listener.socket.recv(notify.MAX_DATAGRAM + 1)
            except BlockingIOError:
                return
            if datagram.startswith(notify.HANDED_IN):
                for offset, measured in notify.handed_in(datagram):
                    self._feed(core_types.HandedIn(boottime(), offset, measured))
                continue
            fields = notify.parse(datagram)
            if fields is not None:
                self._feed(core_types.Notified(boottime(), fields))

    def _feed(self, event: core_types.Input) -> None:
        self._state, actions = core.step(self._state, event)
        for action in actions:
            self._do(action)

    def _do(self, action: core_types.Action) -> None:
        match action:
            case core_types.SignalTree():
                if not self._tree_gone:
                    process_tree.signal_tree(action.signal)
            case core_types.KillTree():
                self._kill_tree()
            case core_types.CheckOutput():
                assert self._output is not None
                self._feed(core_types.OutputGrew(boottime(), self._output.grew_at()))
            case core_types.KeepMetrics():
                self._metrics.put(action.step, action.progress, action.metrics, action.offset)
            case core_types.SendToAgent():
                self._send(action.message)
            case core_types.WriteExit():
                self._write_exit(action)

    def _kill_tree(self) -> None:
        if not self._tree_gone:
            cgroup.kill(self._worker_cgroup)
            process_tree.kill_tree()  # who left the cgroup is below us all the same
        for _ in range(100):
            if self._tree_gone:
                return
            process_tree.kill_children()
            self._reap()

    def _write_exit(self, end: core_types.WriteExit) -> None:
        self._durable_due = math.inf
        complained = False
        while True:
            self._metrics.finish()
            try:
                if not self._home.restore():
                    self._log("the attempt's folder is gone or closed; its end is nowhere to be written")
                    return
                files.write_json(
                    "exit.json", exit_file(end, self._heartbeat(), self._usage(end)), durable=True
                )
                failpoint("shim.exit_written")
                return
            except OSError as error:
                # A full disk must not lose an end: the lock is held until it is written. Killed meanwhile, the shim was
                # killed before the end was written: shim_lost, as ever.
                if not complained:
                    self._log(f"exit.json: {launch.why(error)}; trying again every {RETRY_WRITE_S:g} s")
                complained = True
                time.sleep(RETRY_WRITE_S)

    def _usage(self, end: core_types.WriteExit) -> dict[str, object] | None:
        """What the tree used; None where there was no worker."""
        if end.reason is core_types.Reason.SPAWN_ERROR:
            return None
        return usage.of_tree(self._worker_cgroup, self._memory_cgroup)

    def _heartbeat(self) -> dict[str, object] | None:
        """The heartbeat columns, times in Unix seconds; None where the worker reported nothing."""
        heartbeat = self._state.heartbeat
        if heartbeat == core_types.ShimHeartbeat():
            return None
        columns = values.columns(heartbeat)
        to_unix = time.time() - boottime()
        for name in ("ready_at", "last_heartbeat_at"):
            if columns[name] is not None:
                columns[name] = round(columns[name] + to_unix, 6)
        columns["passed_over"] = {kind.value: given for kind, given in heartbeat.passed_over}
        columns["metrics"] = {name: numbers.in_json(value) for name, value in heartbeat.metrics}
        return columns

    def _send_written(self) -> None:
        """metrics.jsonl has grown; in its writer's thread. A loss is made good by the next one."""
        with contextlib.suppress(OSError):
            self._listener.socket.sendto(
                json.dumps(self._header(core_types.ShimMessage.METRICS)).encode(), self._agent
            )

    def _header(self, message: core_types.ShimMessage) -> dict[str, object]:
        return {"v": 1, "kind": message.value, "run_id": self._run_id, "attempt": int(self._attempt)}

    def _send(self, message: core_types.ShimMessage) -> None:
        datagram = self._header(message)
        if message is core_types.ShimMessage.HEARTBEAT:
            datagram.update(self._heartbeat() or {})
        try:
            text = json.dumps(datagram, allow_nan=False, ensure_ascii=False)  # an agent reads 64 KiB at most
            self._listener.socket.sendto(text.encode(), self._agent)
        except BlockingIOError:
            if message not in self._unsent:
                self._unsent.append(message)
            self._resend_due = boottime() + RESEND_S
        except OSError:
            pass  # no agent: when one is back it asks (SIGUSR2)

    def _log(self, text: str) -> None:
        self._open_log()
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n"
        # Past sys.stderr, which would keep what it could not write: a full disk must not end the shim, its worker and
        # the only record of its end.
        with contextlib.suppress(OSError):
            os.write(2, line.encode("utf-8", "replace"))

    def _open_log(self) -> None:
        """Stderr becomes the attempt's shim.log, once there is something to say: most have nothing."""
        if not self._logging:
            self._logging = True
            with contextlib.suppress(OSError):
                fd = os.open("shim.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                os.dup2(fd, 1)
                os.dup2(fd, 2)
                os.close(fd)
