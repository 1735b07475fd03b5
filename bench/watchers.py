"""A hundred watchers of runs, one of which stops reading: what the others notice of that, and the projector of all of them.

Usage: python -m bench.watchers [--watchers 100] [--rate 250] [--seconds 40] [--times 3]. Targets: the others' p99 at most
1.5 times that with none stopped; the projector at most 10 % slower than with one watcher. Each is a ratio of rounds taken in
turn on one server with one projector; a latency is from when the server stored an event to when a watcher has the record.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path

import msgspec
from nats.errors import NoRespondersError

from bench.processes import tree
from bench.projector_rebuild import make_log
from bench.timing import Figure, figure, machine, percentile, table
from events.streams import ensure_streams
from services.access.local_realm import Unconfined
from services.nats_server.embedded_nats import EmbeddedNats
from trainshed_client import subjects
from trainshed_client.direct_get import Message
from trainshed_client.endpoint import Endpoint
from trainshed_client.nats_client import SafeClient, connect

P99_AT_MOST = 1.5
SLOWER_AT_MOST = 1.1
STARTS_WITHIN_S = 30.0
LINES_AT_ONCE_S = 0.02
SETTLES_S = 1.0
READ = "--read"
_CHANGED_AT = re.compile(rb'"updated_at":"([0-9T:.-]{26})Z"')
_LONGEST = 64


class Heard(msgspec.Struct):
    """What the watchers of one process heard: the seconds from the event to the record, of each record."""

    seconds: list[float]


class Round(msgspec.Struct, frozen=True):
    """One round's figures. ``cut_after_s``: after that the stopped watcher was cut off."""

    p50_ms: float
    p99_ms: float
    cpu_ms: float
    heard: int
    cut_after_s: float | None = None


# --- a process of watchers -----------------------------------------------------------------------------------------------


class Watching(asyncio.Protocol):
    """One connection that hears every run's record, and does as little with it as can be."""

    def __init__(self, endpoint: Endpoint, heard: Heard) -> None:
        self._endpoint = endpoint
        self._heard = heard
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        hello = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "lang": "bench",
            "name": "watcher",
            "user": self._endpoint.user,
            "pass": self._endpoint.password,
        }
        subscription = f"SUB {subjects.WATCH_RUNS}.* 1\r\nPING\r\n".encode()
        transport.write(b"CONNECT " + msgspec.json.encode(hello) + b"\r\n" + subscription)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        assert self._transport is not None
        now, data = time.time(), self._rest + data
        if not self.ready.done() and b"PONG\r\n" in data:
            self.ready.set_result(None)
        if b"PING\r\n" in data:
            self._transport.write(b"PONG\r\n")
        end = 0
        for found in _CHANGED_AT.finditer(data):
            end = found.end()
            at = datetime.fromisoformat(f"{found[1].decode()}+00:00").timestamp()
            self._heard.seconds.append(now - at)
        self._rest = (
            data[max(end, len(data) - _LONGEST) :].replace(b"PING\r\n", b"").replace(b"PONG\r\n", b"")
        )


async def watch(count: int, endpoint: Endpoint) -> None:
    """Be so many watchers: a line on stdout once all listen; what was heard since the last line on stdin for each later."""
    loop, heard = asyncio.get_running_loop(), Heard([])
    host, port = endpoint.url.removeprefix("nats://").split(":")
    made = [Watching(endpoint, heard) for _ in range(count)]
    for one in made:
        await loop.create_connection(lambda one=one: one, host, int(port))  # type: ignore[misc]
    await asyncio.gather(*(one.ready for one in made))
    print("ready", flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(msgspec.json.encode(heard).decode(), flush=True)
        heard.seconds.clear()


class Watchers:
    """Such a process, as its parent has it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def heard(self) -> list[float]:
        """Since it was asked last."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"\n")
        return msgspec.json.decode(await self.process.stdout.readline(), type=Heard).seconds


@contextlib.asynccontextmanager
async def watching(count: int, endpoint: Endpoint) -> AsyncIterator[Watchers]:
    """A process of so many watchers, which listen."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.watchers", READ, str(count)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 28,
        env={
            **os.environ,
            "WATCHED": msgspec.json.encode([endpoint.url, endpoint.user, endpoint.password]).decode(),
        },
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(STARTS_WITHIN_S):
            await process.stdout.readline()
        yield Watchers(process)
    finally:
        process.kill()
        await process.wait()


# --- the rounds ----------------------------------------------------------------------------------------------------------


class Bench:
    """One server with one projector, and the log that is stored there bit by bit."""

    def __init__(
        self, nc: SafeClient, endpoint: Endpoint, projector: int, log_file: Path, rate: int, seconds: float
    ) -> None:
        self._nc = nc
        self._endpoint = endpoint
        self._projector = projector
        self._log_file = log_file
        self._rate, self._seconds = rate, seconds
        self._left: Iterator[Message] = iter(())

    def provide(self, messages: list[Message]) -> None:
        """What the rounds store."""
        self._left = iter(messages)

    async def round(self, watchers: int, *, stop_one: bool = False) -> Round:
        """Store events for a while at an even pace, and see when ``watchers`` others than the one in question have them."""
        async with watching(1, self._endpoint) as one, watching(watchers, self._endpoint) as others:
            await self._store(SETTLES_S)
            await others.heard()
            cuts, began = self._cuts(), time.monotonic()
            if stop_one:
                one.process.send_signal(signal.SIGSTOP)
            cpu = self._cpu_s()
            looking = asyncio.create_task(self._cut_after(cuts, began)) if stop_one else None
            stored = await self._store(self._seconds)
            await asyncio.sleep(SETTLES_S)
            heard = await others.heard()
            cpu = self._cpu_s() - cpu
            if looking is not None:
                looking.cancel()
                await asyncio.wait({looking})
            after = None if looking is None or looking.cancelled() else looking.result()
            if stop_one:
                one.process.send_signal(signal.SIGCONT)
        p50, p99 = (1e3 * percentile(heard, share) for share in (0.5, 0.99))
        return Round(p50, p99, 1e6 * cpu / stored, len(heard), after)

    async def unwatched(self) -> float:
        """The projector's CPU for 1,000 events (ms) while nobody watches."""
        await self._store(SETTLES_S)
        cpu = self._cpu_s()
        stored = await self._store(self._seconds)
        await asyncio.sleep(SETTLES_S)
        return 1e6 * (self._cpu_s() - cpu) / stored

    async def _store(self, seconds: float) -> int:
        began, stored = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            while stored < passed * self._rate:
                message = next(self._left)
                await self._nc.publish(message.subject, message.body)
                stored += 1
            await asyncio.sleep(LINES_AT_ONCE_S)
        return stored

    def _cpu_s(self) -> float:
        return sum(each.cpu_s for each in tree(self._projector))

    def _cuts(self) -> int:
        return self._log_file.read_bytes().count(b"the server cut off")

    async def _cut_after(self, before: int, began: float) -> float:
        while self._cuts() == before:
            await asyncio.sleep(0.5)
        return time.monotonic() - began


@contextlib.asynccontextmanager
async def running(rate: int, seconds: float) -> AsyncIterator[Bench]:
    """A server and its projector on a folder of their own."""
    folder = Path(tempfile.mkdtemp(prefix="tsw-"))
    server = EmbeddedNats(folder, Unconfined())
    try:
        endpoint = await server.start()
        nc = await connect(endpoint, name="bench")
        await ensure_streams(nc)
        log_file = folder / "projector.log"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("TRAINSHED_", "NATS_"))
        }
        environment |= {
            "TRAINSHED_STATE_DIR": str(folder),
            "TRAINSHED_NATS_URL": endpoint.url,
            "TRAINSHED_NATS_USER": endpoint.user or "",
            "TRAINSHED_NATS_PASSWORD": endpoint.password or "",
            "TRAINSHED_NATS_MONITOR_URL": server.monitor_url,
        }
        with log_file.open("wb") as stderr:
            projector = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.cli", "projector", "--records"),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
        try:
            await _until_it_answers(nc)
            yield Bench(nc, endpoint, projector.pid, log_file, rate, seconds)
        finally:
            projector.terminate()
            await projector.wait()
            await nc.close()
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def _until_it_answers(nc: SafeClient) -> None:
    async with asyncio.timeout(STARTS_WITHIN_S):
        while True:
            try:
                await nc.request(subjects.api("health"), b"{}", timeout=5)
                return
            except (NoRespondersError, TimeoutError):
                await asyncio.sleep(0.1)


async def measure(watchers: int, rate: int, seconds: float, times: int) -> list[Figure]:
    """Rounds in turn: no watcher, one, all of them, all with one stopped."""
    unwatched, alone, all_, stopped = [], [], [], []
    async with running(rate, seconds) as bench:
        bench.provide(make_log(int(rate * (seconds + 2 * SETTLES_S) * (4 * times + 1))))
        await bench.round(watchers)  # warms all up
        for _ in range(times):
            unwatched.append(await bench.unwatched())
            alone.append(await bench.round(1))
            all_.append(await bench.round(watchers - 1))
            stopped.append(await bench.round(watchers - 1, stop_one=True))
    p99 = [one.p99_ms / none.p99_ms for none, one in zip(all_, stopped, strict=True)]
    cpu = [many.cpu_ms / one.cpu_ms for one, many in zip(alone, all_, strict=True)]
    first = [one.cpu_ms / none for none, one in zip(unwatched, alone, strict=True)]
    p50 = [many.p50_ms / one.p50_ms for one, many in zip(alone, all_, strict=True)]
    cut = [one.cut_after_s for one in stopped if one.cut_after_s is not None]
    return [
        figure(f"{watchers} watchers at {rate} events/s: p50", [one.p50_ms for one in all_], "ms"),
        figure("  p99, none stopped", [one.p99_ms for one in all_], "ms"),
        figure("  p99 of the others, one stopped", [one.p99_ms for one in stopped], "ms"),
        figure("  that, against none stopped", p99, "times", at_most=P99_AT_MOST),
        *([figure("  the stopped one cut off and named after", cut, "s")] if cut else []),
        figure("projector's CPU for 1,000 events, no watcher", unwatched, "ms"),
        figure("  that with one watcher", [one.cpu_ms for one in alone], "ms"),
        figure("  that with one, against none", first, "times"),
        figure(f"  that with {watchers}, against one", cpu, "times", at_most=SLOWER_AT_MOST),
        figure("  until a record is there (p50), against one", p50, "times"),
        figure("  records heard in a round", [float(one.heard) for one in stopped], ""),
    ]


def figures(watchers: int = 100, rate: int = 250, seconds: float = 40.0, times: int = 3) -> list[Figure]:
    """For the table of all benchmarks."""
    return asyncio.run(measure(watchers, rate, seconds, times))


def main() -> None:
    """Print the table; or be a process of watchers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--watchers", type=int, default=100)
    parser.add_argument("--rate", type=int, default=250, help="events a second")
    parser.add_argument("--seconds", type=float, default=40.0, help="of one round")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument(READ, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read is not None:
        asyncio.run(watch(options.read, Endpoint(*msgspec.json.decode(os.environ["WATCHED"]))))
        return
    print(machine())
    print(table(figures(options.watchers, options.rate, options.seconds, options.times)))


if __name__ == "__main__":
    main()
