"""How a worker's messages are sent: on real sockets that are read, full, away or closed, by threads, handlers and forks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import until
from trainshed_client import notify_sender
from trainshed_client.notify_sender import DatagramSender

WITHIN_S = 20.0
BURST = 3_000
"""More messages than any system's queue and what is kept have room for."""


class Listener:
    """The other end of NOTIFY_SOCKET: reads nothing by itself."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(WITHIN_S)

    def receive(self) -> dict[str, str]:
        """The next message."""
        return dict(line.split("=", 1) for line in self.socket.recv(65_536).decode().splitlines())

    def until_step(self, step: int) -> list[dict[str, str]]:
        """All up to that step's."""
        heard = [self.receive()]
        while heard[-1].get("X_STEP") != str(step):
            heard.append(self.receive())
        return heard

    def nothing_more(self) -> bool:
        """Whether none waits to be read."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(1)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(WITHIN_S)
        return False


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "n"


@pytest.fixture
def listener(path: Path) -> Iterator[Listener]:
    listener = Listener(path)
    yield listener
    listener.socket.close()


@pytest.fixture
def sender() -> DatagramSender:
    return DatagramSender()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_messages_arrive_in_their_order_and_leave_nothing_open(
    sender: DatagramSender, path: Path, listener: Listener
) -> None:
    before = descriptors()
    for step in range(5):
        sender.send(str(path), {"X_STEP": str(step), "STATUS": "läuft"})
    assert descriptors() == before
    assert [listener.receive() for _ in range(5)] == [
        {"X_STEP": str(step), "STATUS": "läuft"} for step in range(5)
    ]


def test_an_abstract_socket_is_reached(sender: DatagramSender) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0trainshed-{os.getpid()}")
        sock.settimeout(WITHIN_S)
        sender.send(f"@trainshed-{os.getpid()}", {"READY": "1"})
        assert sock.recv(100) == b"READY=1"


def test_of_what_a_full_socket_does_not_take_the_newest_arrives_and_no_last_value_is_lost(
    sender: DatagramSender, path: Path, listener: Listener
) -> None:
    while _takes_one_more(path):
        pass
    for step in range(BURST):
        once = {"READY": "1", "X_METRIC_once": "0.5"} if step == 0 else {}
        sender.send(str(path), {**once, "X_STEP": str(step)})
    until(lambda: len(sender._kept) <= notify_sender.MOST_KEPT, WITHIN_S)  # who had the turn joins the oldest
    heard = [
        one for one in listener.until_step(BURST - 1) if "FILLED" not in one
    ]  # by itself: nothing is sent now
    steps = [int(one["X_STEP"]) for one in heard]
    assert steps == sorted(set(steps))
    assert steps[-200:] == list(range(BURST - 200, BURST))
    assert len(steps) <= notify_sender.MOST_KEPT
    assert [one["X_METRIC_once"] for one in heard if "READY" in one] == ["0.5"]
    assert listener.nothing_more()


def _takes_one_more(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(b"FILLED=1", str(path))
        except BlockingIOError:
            return False
    return True


def test_a_socket_that_is_away_is_found_again(sender: DatagramSender, path: Path) -> None:
    sender.send(str(path), {"READY": "1"})
    sender.send(str(path), {"X_STEP": "1"})
    listener = Listener(path)
    try:
        assert [listener.receive(), listener.receive()] == [{"READY": "1"}, {"X_STEP": "1"}]
    finally:
        listener.socket.close()


@pytest.mark.parametrize("address", ["/", "/nowhere/n", "x" * 300, "/dev/null", "@"])
def test_an_address_that_is_none_raises_nothing(sender: DatagramSender, address: str) -> None:
    sender.send(address, {"READY": "1"})
    sender.send(address, {"X_STEP": "1"})


def test_nobody_behind_a_path_raises_nothing(sender: DatagramSender, path: Path, listener: Listener) -> None:
    listener.socket.close()
    sender.send(str(path), {"READY": "1"})


def test_a_message_that_no_socket_takes_holds_up_no_other(
    sender: DatagramSender, path: Path, listener: Listener
) -> None:
    sender.send(str(path), {"STATUS": "x" * 10_000_000})
    sender.send(str(path), {"X_STEP": "1"})
    assert listener.receive() == {"X_STEP": "1"}


def test_where_no_descriptor_is_left_it_is_sent_later(
    sender: DatagramSender, path: Path, listener: Listener
) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        sender.send(str(path), {"X_STEP": "1"})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert listener.receive() == {"X_STEP": "1"}


def test_of_several_threads_each_message_arrives_once(
    sender: DatagramSender, path: Path, listener: Listener
) -> None:
    def send(thread: int) -> None:
        for number in range(50):
            sender.send(str(path), {"THREAD": str(thread), "X_STEP": str(number)})

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(5)]
    for thread in threads:
        thread.start()
    heard = [listener.receive() for _ in range(250)]
    for thread in threads:
        thread.join(WITHIN_S)
    assert len({tuple(one.items()) for one in heard}) == 250
    assert listener.nothing_more()


def test_a_signal_handler_sends_in_the_middle_of_a_message(
    sender: DatagramSender, path: Path, listener: Listener
) -> None:
    heard: list[dict[str, str]] = []
    handled: list[str] = []
    sent: list[str] = []

    def read() -> None:
        while (message := listener.receive()) != {"X_STEP": "-1"}:
            heard.append(message)

    def handle(_number: int, _frame: object) -> None:
        handled.append(str(len(handled)))
        sender.send(str(path), {"HANDLED": handled[-1]})

    reader = threading.Thread(target=read)
    reader.start()
    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        end = time.monotonic() + WITHIN_S
        while len(handled) < 50 and time.monotonic() < end:
            if len(sent) + len(handled) - len(heard) < notify_sender.MOST_KEPT // 2:
                sent.append(str(len(sent)))
                sender.send(str(path), {"X_STEP": sent[-1]})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    sender.send(str(path), {"X_STEP": "-1"})
    reader.join(WITHIN_S)
    assert [one["HANDLED"] for one in heard if "HANDLED" in one] == handled
    assert [one["X_STEP"] for one in heard if "X_STEP" in one] == sent


FORKS = """
import os, sys, time
from trainshed_client import notify_sender
from trainshed_client.notify_sender import DatagramSender
sender, address = DatagramSender(), sys.argv[1]
sender.send(address + "-away", {"PARENTS": "1"})   # kept
assert sender._turn.acquire(timeout=10)            # as if another thread were in the middle of a message
if os.fork() == 0:
    sender.send(address, {"CHILDS": "1"})
    os._exit(0)
os.wait()
sender._turn.release()
sender.send(address, {"X_STEP": "1"})
"""


def test_a_forked_child_sends_its_own_and_not_what_its_parent_kept(path: Path, listener: Listener) -> None:
    subprocess.run([sys.executable, "-c", FORKS, str(path)], check=True, timeout=WITHIN_S)
    assert [listener.receive() for _ in range(3)] == [{"CHILDS": "1"}, {"PARENTS": "1"}, {"X_STEP": "1"}]
    assert listener.nothing_more()


ENDS = """
import sys
from trainshed_client.notify_sender import DatagramSender
sender = DatagramSender()
for step in range(3_000):
    sender.send(sys.argv[1], {"X_STEP": str(step)})
print("sent", flush=True)
sys.stdin.read()
"""


def test_what_a_full_socket_did_not_take_is_sent_at_the_end_of_the_process(
    path: Path, listener: Listener
) -> None:
    by_nobody_else = "DatagramSender()\nsender._until_sent = lambda: None\n"
    process = subprocess.Popen(
        [sys.executable, "-c", ENDS.replace("DatagramSender()\n", by_nobody_else), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"sent\n"
    heard: list[dict[str, str]] = []
    reader = threading.Thread(target=lambda: heard.extend(listener.until_step(2_999)))
    reader.start()
    process.communicate(timeout=WITHIN_S)
    reader.join(WITHIN_S)
    assert len(heard) > notify_sender.MOST_KEPT
    assert process.returncode == 0


def test_a_process_ends_though_nobody_reads(path: Path, listener: Listener) -> None:
    subprocess.run(
        [sys.executable, "-c", ENDS, str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=WITHIN_S,
    )
    assert not listener.nothing_more()
