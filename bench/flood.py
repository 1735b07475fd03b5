"""One person floods the services, another works: what the other's requests take, and whether any of them fails.

Owns the flood (a process that writes prepared bytes to a socket), the services that it is for, each in a process of its own
as in a stack, and the figures. Usage: python -m bench.flood [--rate 20000] [--seconds 10]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.accounts import CONTROL_USER, AccountsServer, accounts_server
from bench.timing import Figure, figure, machine, percentile, table
from events.log import EventLog
from events.streams import ensure_streams
from services.access.identities import LOCAL
from services.fold import SharedFold
from services.gateway.gateway import Gateway
from services.lifecycle import Service
from services.projector.service import ProjectorService
from trainshed_client import subjects
from trainshed_client.nats_client import connect

FLOODER, OTHER = "sam", "eve"
RATE, SECONDS = 20_000, 10.0
P99_MS = 250.0
ASKS_EVERY_S = 0.02
ANSWER_WITHIN_S = 5.0
BLOCKS_A_SECOND = 200
KINDS = ("run.list", "run.submit", "headers")
FLOODS = tuple((FLOODER, kind) for kind in KINDS) + ((LOCAL, "run.submit"),)
"""Who floods, and how."""


class Asked(msgspec.Struct):
    """What became of the other's requests: how long each took (ms), and what was wrong with those that failed."""

    took_ms: list[float]
    failed: list[str]


def prepared(kind: str, count: int) -> bytes:
    """So many requests as they go over the wire. ``headers``: each with a block of headers that takes long to parse."""
    body = json.dumps({"entry_point": "/bin/true"}).encode() if kind == "run.submit" else b"{}"
    if kind == "headers":
        headers = b"NATS/1.0\r\n" + b"".join(b"H%d: %d\r\n" % (n, n) for n in range(20)) + b"\r\n"
        sizes = b"%d %d" % (len(headers), len(headers) + len(body))
        one = b"HPUB trainshed.api.run.list _INBOX.flood " + sizes + b"\r\n" + headers + body + b"\r\n"
    else:
        one = b"PUB trainshed.api.%s _INBOX.flood %d\r\n%s\r\n" % (kind.encode(), len(body), body)
    return one * count


def send(port: int, user: str, kind: str, rate: int, seconds: float) -> tuple[int, int]:
    """Send for so long, evenly. Returns how many were sent and how many answered."""
    with socket.create_connection(("127.0.0.1", port)) as nats:
        options = {
            "verbose": False,
            "headers": True,
            "user": user,
            "pass": user,
            "lang": "flood",
            "version": "0",
        }
        nats.sendall(b"CONNECT " + json.dumps(options).encode() + b"\r\nSUB _INBOX.flood 1\r\nPING\r\n")
        begun = time.monotonic()
        number = max(1, rate // BLOCKS_A_SECOND)
        block = prepared(kind, number)
        sent = answered = 0
        while (now := time.monotonic()) < begun + seconds:
            if sent < rate * (now - begun):
                nats.sendall(block)
                sent += number
            else:
                time.sleep(0.001)
            answered += _answers(nats)
        nats.sendall(b"PING\r\n")
        return sent, answered + _answers(nats)


def _answers(nats: socket.socket) -> int:
    """Read what is there; a server that asks whether we live is answered."""
    count = 0
    while True:
        try:
            data = nats.recv(65_536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return count
        if not data:
            raise ConnectionError("the server hung up")
        count += data.count(b"MSG _INBOX.flood ")
        if b"PING\r\n" in data:
            nats.sendall(b"PONG\r\n")


@contextlib.contextmanager
def flooding(
    server: AccountsServer, user: str, kind: str, rate: int, seconds: float
) -> Iterator[subprocess.Popen[str]]:
    """A flood by ``user`` in a process of its own; its output says how many were sent and answered."""
    words = ["send", str(server.port), user, kind, str(rate), str(seconds)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bench.flood", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def sent_and_answered(flood: subprocess.Popen[str], within_s: float) -> tuple[int, int]:
    """How many a flood sent, and how many of them were answered, once it is over."""
    sent, answered = map(int, flood.communicate(timeout=within_s)[0].split())
    return sent, answered


async def ask_for(server: AccountsServer, seconds: float) -> Asked:
    """Ask as `OTHER` for so long, a query and a submit in turn, each at its time whether or not others were answered."""
    nc = await connect(server.endpoint(OTHER), name=OTHER)
    asked = Asked([], [])

    async def ask(number: int) -> None:
        call = ("run.list", "run.submit", "run.check")[number % 3]
        request = (
            {"limit": 10} if call == "run.list" else {"entry_point": "/bin/true", "arguments": [str(number)]}
        )
        begun = time.monotonic()
        try:
            answer = await nc.request(
                subjects.api(call), msgspec.json.encode(request), timeout=ANSWER_WITHIN_S
            )
            if "error" in (content := msgspec.json.decode(answer.data)):
                asked.failed.append(f"{call}: {content['error']}")
        except Exception as error:  # noqa: BLE001 — whatever it is, it is counted
            asked.failed.append(f"{call}: {error!r}")
        asked.took_ms.append((time.monotonic() - begun) * 1_000)

    try:
        async with asyncio.TaskGroup() as tasks:
            begun, number = time.monotonic(), 0
            while time.monotonic() < begun + seconds:
                tasks.create_task(ask(number))
                number += 1
                await asyncio.sleep(max(0.0, begun + number * ASKS_EVERY_S - time.monotonic()))
    finally:
        await nc.close()
    return asked


async def serve(port: int, what: str, folder: Path) -> None:
    """Run the gateway, or the projector, until SIGTERM; prints a line when it serves."""
    nc = await connect(AccountsServer(port).endpoint(CONTROL_USER), name=what)
    await ensure_streams(nc)
    log = EventLog(nc)
    services: list[Service]
    if what == "gateway":
        fold = SharedFold(log, await log.log_id())
        services = [fold, Gateway(log, fold)]
    else:
        services = [ProjectorService(nc, folder / "read.db")]
    loop = asyncio.get_running_loop()
    for service in services:
        loop.add_signal_handler(signal.SIGTERM, lambda: [one.stop() for one in services])
    async with asyncio.TaskGroup() as tasks:
        for service in services:
            tasks.create_task(service.run())
        await services[-1].ready.wait()
        print("serves", flush=True)
    await nc.close()


@contextlib.contextmanager
def serving(server: AccountsServer) -> Iterator[None]:
    """Gateway and projector, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="tsf-") as folder, contextlib.ExitStack() as ended:
        for what in ("gateway", "projector"):
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bench.flood", "serve", str(server.port), what, folder],
                stdout=subprocess.PIPE,
                text=True,
            )
            ended.callback(process.wait, 20)
            ended.callback(process.terminate)
            assert process.stdout is not None
            while (line := process.stdout.readline()) != "serves\n":
                if not line:
                    raise RuntimeError(f"the {what} does not start")
        yield


def figures(rate: int = RATE, seconds: float = SECONDS, times: int = 5) -> list[Figure]:
    """Without a flood, then under each kind of it."""
    out = []
    for by, kind in ((None, None), *FLOODS):
        p50, p99, worst, failed = [], [], [], []
        for _ in range(times):
            with (
                accounts_server([FLOODER, OTHER, LOCAL]) as server,
                serving(server),
                contextlib.ExitStack() as stack,
            ):
                flood = (
                    stack.enter_context(flooding(server, by, kind, rate, seconds + 1))
                    if by and kind
                    else None
                )
                asked = asyncio.run(ask_for(server, seconds))
                if flood is not None:
                    sent, answered = sent_and_answered(flood, seconds + 10)
                    print(f"{kind}: {sent:,} sent, {answered:,} answered", file=sys.stderr)
            for text in asked.failed[:3]:
                print(f"failed: {text}", file=sys.stderr)
            p50.append(percentile(asked.took_ms, 0.5))
            p99.append(percentile(asked.took_ms, 0.99))
            worst.append(max(asked.took_ms))
            failed.append(float(len(asked.failed)))
        of = "nobody floods" if kind is None else f"{rate:,}/s of {kind} by {by}"
        out += [
            figure(f"{of}: another's p50", p50, "ms"),
            figure(f"{of}: another's p99", p99, "ms", at_most=P99_MS),
            figure(f"{of}: another's slowest", worst, "ms"),
            figure(f"{of}: of another's failed", failed, "requests", at_most=0),
        ]
    return out


def main() -> None:
    """The figures; or, for the processes that this one starts, the flood or a service."""
    if sys.argv[1:2] == ["send"]:
        port, user, kind, rate, seconds = sys.argv[2:]
        print(*send(int(port), user, kind, int(rate), float(seconds)))
        return
    if sys.argv[1:2] == ["serve"]:
        port, what, folder = sys.argv[2:]
        asyncio.run(serve(int(port), what, Path(folder)))
        return
    parser = argparse.ArgumentParser(prog="python -m bench.flood", description=__doc__)
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    print(machine())
    print(table(figures(options.rate, options.seconds, options.times)))


if __name__ == "__main__":
    main()
