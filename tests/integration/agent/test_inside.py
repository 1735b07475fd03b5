"""The sockets of workers on an agent's event loop: what one worker does there costs that worker alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.agent.inside import sockets
from services.agent.inside.calls import WorkerCalls
from services.agent.inside.sockets import CONNECTIONS, LONGEST_REQUEST, WorkerSockets
from services.agent.inside.watches import MOST_BYTES, PendingLines, RunChanges
from services.agent.processes.sockets import sockets_dir, worker_socket
from tests.integration.agent.stage import new_ref, run_id
from tests.support import eventually
from trainshed_client import subjects
from trainshed_client.client import Trainshed
from trainshed_client.connection import ReceiveOutput, ReceiveRun, Reply
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.worker_socket import WorkerSocket

REF = new_ref(1)
KID, STRANGER = run_id(2), run_id(3)


class Heard:
    async def close(self) -> None:
        return None


class Stack:
    """The stack beyond the agent: it answers what it is asked with the question, and tells what the test tells it."""

    where = "the stack"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hang = False
        self.takes_s = 0.0
        self.receive: ReceiveRun = lambda run_id, data: None
        self.watchers = 0

    async def request(self, subject: str, payload: bytes, **_: Any) -> Reply:
        self.asked.append(subject)
        await asyncio.sleep(self.takes_s)
        while self.hang:
            await asyncio.sleep(0.01)
        if subject.endswith("run.get") and json.loads(payload)["run_id"] == STRANGER:
            return Reply(b'{"error": {"code": "not_found", "message": "no such run"}}', {})
        if subject.endswith(".output"):
            return Reply(b"\xff\n", {subjects.OFFSET_HEADER: "3", subjects.SIZE_HEADER: "9"})
        return Reply(json.dumps({"subject": subject, "asked": json.loads(payload)}).encode(), {})

    async def watch_runs(
        self, run_ids: frozenset[str] | None, receive: ReceiveRun, again: Callable[[], None]
    ) -> Heard:
        self.receive = receive
        self.watchers += 1
        return Heard()

    async def watch_output(
        self, run_id: str, attempt: int, node: str, receive: ReceiveOutput, again: Callable[[], None]
    ) -> Heard:
        raise AssertionError("not asked for here")

    async def close(self) -> None:
        return None

    async def abandon(self) -> None:
        return None


class Door:
    """The sockets of one agent, with that of one attempt open."""

    def __init__(self, stack: Stack, sockets: WorkerSockets, path: Path) -> None:
        self.stack = stack
        self.sockets = sockets
        self.path = path

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.path), limit=LONGEST_REQUEST * 4)

    async def ask(self, line: bytes) -> Any:
        reader, writer = await self.connect()
        writer.write(line)
        answer = await reader.readline()
        writer.close()
        return json.loads(answer)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path) as one:
        yield one


@asynccontextmanager
async def opened(state: Path) -> AsyncIterator[Door]:
    stack = Stack()
    async with asyncio.TaskGroup() as tasks:
        made = WorkerSockets(WorkerCalls(stack, "gpu01"), lambda: sockets_dir(state), tasks.create_task)
        path = worker_socket(str(sockets_dir(state)), REF)
        made.open(REF, path)
        yield Door(stack, made, Path(path))
        made.close(REF)
        made.end()
    folder = Path(path).parent
    assert not folder.exists() or not list(folder.iterdir())


def request(call: str, **fields: Any) -> bytes:
    return json.dumps({"call": call, "request": fields}).encode() + b"\n"


async def test_what_a_worker_asks_is_asked_in_the_name_of_its_run(door: Door) -> None:
    answer = await door.ask(request("run.list", labels={"a": "b"}))
    assert answer == {
        "subject": f"trainshed.api.w.{REF.run_id}.run.list",
        "asked": {"labels": {"a": "b"}},
    }
    found = await door.ask(request("node.gpu01.output", run_id=KID, attempt=1))
    assert found == {"offset": 3, "size": 9, "data": "/wo="}
    assert door.stack.asked[1:] == [
        f"trainshed.api.w.{REF.run_id}.run.get",
        "trainshed.api.node.gpu01.output",
    ]


@pytest.mark.parametrize(
    "call",
    [
        *(
            "slot.list",
            "node.drain",
            "run.retry",
            "run.explain",
            "audit.rows",
            "health",
            "",
            "run.*",
            "run.get.x",
        ),
        *(
            "node.*.output",
            "node.>.output",
            "node.a.b.output",
            "node.gpu01.prune",
            "node..output",
            "> .run.get",
        ),
    ],
)
async def test_what_is_not_for_a_worker_is_refused_and_never_asked(door: Door, call: str) -> None:
    answer = await door.ask(request(call, run_id=KID))
    assert answer["error"]["code"] == "denied"
    assert door.stack.asked == []


async def test_only_runs_that_it_sees_are_cancelled_and_read(door: Door) -> None:
    for call in ("run.cancel", "node.gpu01.output", "output.watch"):
        answer = await door.ask(request(call, run_id=STRANGER, attempt=1, node="gpu01"))
        assert answer["error"]["code"] == "not_found"
    assert {subject.rpartition(".run.")[2] for subject in door.stack.asked} == {"get"}
    answer = await door.ask(request("run.cancel", run_id=KID))
    assert answer["asked"] == {"run_id": KID}
    answer = await door.ask(request("output.watch", run_id=KID, attempt=1, node="a.*"))
    assert answer["error"]["code"] == "invalid"


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[1]\n",
        b'{"call": 3}\n',
        b"\xff\xfe\n",
        b'{"call": "run.get", "more": 1}\n',
        b"[" * 9000 + b"\n",
    ],
)
async def test_a_line_that_is_no_request_is_answered_and_the_next_is_read(door: Door, line: bytes) -> None:
    reader, writer = await door.connect()
    writer.write(line + request("run.list"))
    assert json.loads(await reader.readline())["error"]["code"] == "invalid"
    assert "asked" in json.loads(await reader.readline())
    writer.close()


async def test_a_line_that_does_not_end_is_refused_and_hung_up_on(door: Door) -> None:
    reader, writer = await door.connect()
    writer.write(b"x" * (LONGEST_REQUEST + 1))
    assert json.loads(await reader.readline())["error"]["code"] == "too_large"
    assert await reader.read() == b""
    writer.close()


async def test_an_attempt_has_so_many_connections_and_more_wait_for_their_turn(door: Door) -> None:
    door.stack.hang = True
    held = [await door.connect() for _ in range(CONNECTIONS)]
    for _, writer in held:
        writer.write(request("run.list"))
    await eventually(lambda: len(door.stack.asked) == CONNECTIONS)
    late, waits = await door.connect()
    waits.write(request("run.list"))
    answer = asyncio.create_task(late.readline())
    await asyncio.wait({answer}, timeout=0.1)
    assert not answer.done()
    assert len(door.stack.asked) == CONNECTIONS
    door.stack.hang = False
    for reader, writer in held:
        assert "asked" in json.loads(await reader.readline())
        writer.close()

    assert "asked" in json.loads(await answer)
    waits.close()


async def test_who_floods_is_answered_in_turn_with_others(door: Door) -> None:
    reader, writer = await door.connect()
    writer.write(b"{}\n" * 20_000)
    turns, answered = 0, 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        counting = tasks.create_task(count())
        while answered < 20_000:
            answered += (await reader.read(1 << 20)).count(b"\n")
        counting.cancel()
    assert turns > 20_000
    writer.close()


async def test_who_never_reads_is_hung_up_on(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "IDLE_S", 0.2)
    big = request("run.list", text="x" * 500_000)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.settimeout(10)
        deaf.connect(str(door.path))
        await asyncio.to_thread(deaf.sendall, big)
        await eventually(lambda: len(door.stack.asked) == 1)
        assert "asked" in await door.ask(request("run.list"))
        with pytest.raises(OSError):  # it is gone: nothing more is taken
            for _ in range(100):
                await asyncio.to_thread(deaf.sendall, big)


async def test_an_idle_connection_is_closed(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "IDLE_S", 0.1)
    reader, writer = await door.connect()
    assert await reader.read() == b""
    writer.close()


async def test_another_user_is_refused(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    reader, writer = await door.connect()
    with contextlib.suppress(OSError):
        writer.write(request("run.list"))
    with contextlib.suppress(OSError):
        assert await reader.read() == b""
    assert door.stack.asked == []


async def test_a_socket_that_is_gone_is_made_again(door: Door) -> None:
    door.path.unlink()
    door.sockets.restore()
    assert "asked" in await door.ask(request("run.list"))
    for left in (*door.path.parent.iterdir(), door.path.parent):
        left.rmdir() if left.is_dir() else left.unlink()
    door.sockets.restore()
    assert "asked" in await door.ask(request("run.list"))


async def test_the_end_of_an_attempt_hangs_up_whatever_is_under_way(door: Door) -> None:
    door.stack.hang = True
    reader, writer = await door.connect()
    writer.write(request("run.list"))
    await eventually(lambda: door.stack.asked)
    watcher, watching = await door.connect()
    watching.write(request("run.watch"))
    assert json.loads(await watcher.readline()) == {"again": True}
    door.sockets.close(REF)
    assert await reader.read() == await watcher.read() == b""
    assert not door.path.exists()
    writer.close()
    watching.close()


async def test_the_socket_of_an_ended_attempt_serves_another_and_nobody_of_the_first(door: Door) -> None:
    was = door.path.stat().st_ino
    late = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with late:
        late.connect(str(door.path))  # in the kernel's queue: nobody has taken it yet
        late.send(request("run.list"))
        door.sockets.close(REF)
        next_ref = new_ref(7)
        path = worker_socket(str(door.path.parent), next_ref)
        door.sockets.open(next_ref, path)
        assert Path(path).stat().st_ino == was
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request("run.list"))
        assert next_ref.run_id in json.loads(await reader.readline())["subject"]
        with pytest.raises(ConnectionResetError):
            late.recv(1)
        writer.close()
        door.sockets.close(next_ref)
    assert [subject.split(".")[3] for subject in door.stack.asked] == [next_ref.run_id]


def record(run: str, parent: str | None = None) -> bytes:
    labels = {} if parent is None else {"parent": parent}
    return json.dumps({"run_id": run, "labels": labels, "seq": 1}).encode()


async def test_a_watch_has_the_runs_that_the_worker_sees(door: Door) -> None:
    reader, writer = await door.connect()
    writer.write(request("run.watch"))
    assert json.loads(await reader.readline()) == {"again": True}
    door.stack.receive(STRANGER, record(STRANGER))
    door.stack.receive(STRANGER, record(STRANGER, parent=KID))
    door.stack.receive(KID, record(KID, parent=REF.run_id))
    line = json.loads(await reader.readline())
    assert (line["run_id"], line["run"]["labels"]) == (KID, {"parent": REF.run_id})
    door.stack.receive(KID, b"")
    assert json.loads(await reader.readline()) == {"run_id": KID}
    writer.close()


async def test_changes_are_heard_once_for_all_watchers_and_not_without_any() -> None:
    stack = Stack()
    changes = RunChanges(stack)
    first, second = PendingLines(), PendingLines()
    for parent, pending in ((KID, first), (REF.run_id, second)):
        await changes.add(parent, pending)
        pending.take()
    assert stack.watchers == 1
    stack.receive(KID, record(KID, parent=REF.run_id))
    assert first.take() == second.take() != b""
    await changes.remove(KID, first)
    await changes.remove(REF.run_id, second)
    stack.receive(KID, record(KID))
    assert first.take() == b""
    await changes.add(KID, first)
    assert stack.watchers == 2


def test_what_waits_for_a_watcher_is_the_newest_and_is_bounded() -> None:
    pending = PendingLines()
    pending.put("a", b"1\n")
    pending.put("b", b"2\n")
    pending.put("a", b"3\n")
    assert pending.take() == b"2\n3\n"
    assert pending.take() == b""
    for number in range(MOST_BYTES // 1000 + 2):
        pending.put(number, b"x" * 999 + b"\n")
    pending.put("last", b"4\n")
    taken = pending.take()
    assert taken.startswith(b'{"again":true}\n')
    assert taken.endswith(b"4\n")
    assert len(taken) < 5000


# --- the client's side -------------------------------------------------------------------------------------------


async def test_a_question_waits_for_an_agent_that_starts_again_and_is_asked_again_of_the_next(
    tmp_path: Path,
) -> None:
    path = worker_socket(str(sockets_dir(tmp_path)), REF)
    client = WorkerSocket(str(path))
    asking = asyncio.create_task(client.request(subjects.api("run.list"), b"{}", timeout=20))
    await asyncio.sleep(0)
    async with opened(tmp_path) as door:
        door.stack.hang = True
        await eventually(lambda: door.stack.asked)
    async with opened(tmp_path):
        assert json.loads((await asking).data)["asked"] == {}


async def test_a_watch_goes_on_with_the_next_agent(tmp_path: Path) -> None:
    heard: list[Mapping[str, object] | str] = []
    path = worker_socket(str(sockets_dir(tmp_path)), REF)
    trainshed = Trainshed(WorkerSocket(str(path)))
    async with opened(tmp_path) as door:
        watching = await trainshed.connection.watch_runs(
            None, lambda run, data: heard.append(run), lambda: heard.append("again")
        )
        door.stack.receive(KID, record(KID, parent=REF.run_id))
        await eventually(lambda: heard == ["again", KID])
    async with opened(tmp_path):
        await eventually(lambda: heard == ["again", KID, "again"])
        await trainshed.close()
        await watching.close()


async def test_of_many_questions_none_is_late_for_those_before_it(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainshed_client.worker_socket.AGENT_ANSWERS_LATER_S", 0.0)
    monkeypatch.setattr(door.stack, "takes_s", 0.1)
    client = WorkerSocket(str(door.path))
    asked = [client.request(subjects.api("run.list"), b"{}", timeout=0.8) for _ in range(200)]
    assert len(await asyncio.gather(*asked)) == 200


async def test_more_clients_at_once_than_connections_and_queue_are_all_answered(door: Door) -> None:
    door.stack.takes_s = 0.05
    clients = [WorkerSocket(str(door.path)) for _ in range(10)]
    asked = [one.request(subjects.api("run.list"), b"{}", timeout=20) for one in clients for _ in range(20)]
    assert len(await asyncio.gather(*asked)) == 200
    assert len(door.stack.asked) == 200


async def test_without_any_agent_it_is_unavailable_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainshed_client.worker_socket.AGENT_ANSWERS_LATER_S", 0.1)
    client = WorkerSocket(str(tmp_path / "w.sock"))
    begun = time.monotonic()
    with pytest.raises(TrainshedError) as refused:
        await client.request(subjects.api("run.submit"), b"{}", timeout=0.1)
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert str(tmp_path / "w.sock") in str(refused.value)
    assert "safe to ask again" in str(refused.value)
    assert time.monotonic() - begun < 10
