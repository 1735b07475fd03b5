"""Output and heartbeats of running attempts: live, by range, and bounded whatever a worker prints."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from events.codec import decode_heartbeat
from events.feed import Feed
from events.types import Completed, LastHeartbeat, RunHeartbeat, Started
from services.agent.output import output_index
from tests.integration.agent.stage import NODE, Stage, new_ref, python
from tests.support import NatsServer, eventually
from trainshed_client import subjects

MIB = 1 << 20


@pytest.fixture
async def stage(nats_server: NatsServer, tmp_path: Path) -> Stage:
    return await Stage.set_up(nats_server, tmp_path)


def script_that_waits(script: str, path: Path) -> dict[str, Any]:
    """Run the script, then wait for ``path``."""
    wait = f"\nimport os, time\nwhile not os.path.exists({str(path)!r}): time.sleep(0.01)\n"
    return python(script + wait)


class Listener:
    """What was published on a subject."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []

    async def receive(self, msg: Msg) -> None:
        self.messages.append(msg)

    @property
    def chunks(self) -> list[tuple[int, bytes]]:
        return [(int((msg.headers or {})[subjects.OFFSET_HEADER]), msg.data) for msg in self.messages]

    @property
    def size(self) -> int | None:
        """As the last message of an attempt's stream says."""
        last = (self.messages[-1].headers or {}) if self.messages else {}
        return int(last[subjects.SIZE_HEADER]) if subjects.SIZE_HEADER in last else None


async def listen(stage: Stage, subject: str) -> Listener:
    listener = Listener()
    await stage.nc.subscribe(subject, cb=listener.receive, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await stage.nc.flush()
    return listener


async def ask(stage: Stage, **request: Any) -> Msg:
    body = msgspec.json.encode(request)
    return await stage.nc.request(subjects.node_output(NODE), body, timeout=5)


async def read_all(stage: Stage, run_id: str, stream: str = "stdout") -> bytes:
    data = b""
    while True:
        answer = await ask(stage, run_id=run_id, attempt=1, stream=stream, offset=len(data))
        assert answer.headers is not None, answer.data
        assert int(answer.headers[subjects.OFFSET_HEADER]) == len(data)
        data += answer.data
        if len(data) == int(answer.headers[subjects.SIZE_HEADER]):
            return data


async def test_output_is_live_while_the_worker_runs_and_ends_with_its_size(stage: Stage) -> None:
    ref, go_on = new_ref(), stage.root / "go_on"
    out = await listen(stage, subjects.output(ref.run_id, 1, NODE, "stdout"))
    err = await listen(stage, subjects.output(ref.run_id, 1, NODE, "stderr"))
    script = "import os; os.write(1, b'hello\\n'); os.write(2, b'oh\\n')"
    async with stage.agent():
        await stage.dispatch(ref, script_that_waits(script, go_on))
        await eventually(lambda: out.chunks and err.chunks)
        assert out.chunks == [(0, b"hello\n")] and err.chunks == [(0, b"oh\n")]
        go_on.touch()
        await stage.ended(ref)
        await eventually(lambda: out.size == 6 and err.size == 3)
        folder = stage.runs_dir / ref.run_id / "attempts" / "1"
        assert output_index.ends(folder, ("stdout", "stderr")) == {"stdout": 6, "stderr": 3}


async def test_telemetry_lines_are_told_with_their_offset(stage: Stage) -> None:
    ref = new_ref()
    told = await listen(stage, subjects.telemetry(ref.run_id, 1, NODE))
    script = """
print('{"type": "step", "n": 1}')
print('no telemetry')
print('{"no": "type"}')
print('{"event": "episode"}')
print('{"type": "' + "x" * 70000 + '"}')
print('{"type": "torn"')
print('{"type": "last"}', end="")
"""
    async with stage.agent():
        await stage.dispatch(ref, python(script))
        await stage.ended(ref)
        whole = await read_all(stage, ref.run_id)
    await eventually(lambda: len(told.messages) == 2)
    assert [data for _, data in told.chunks] == [b'{"type": "step", "n": 1}', b'{"event": "episode"}']
    assert all(whole[offset:].startswith(data + b"\n") for offset, data in told.chunks)


async def test_ranges_are_served_of_running_and_ended_attempts(stage: Stage) -> None:
    ref, go_on = new_ref(), stage.root / "go_on"
    script = f"import sys; sys.stdout.buffer.write(bytes(range(256)) * {MIB // 256}); sys.stdout.flush()"
    async with stage.agent():
        await stage.dispatch(ref, script_that_waits(script, go_on))
        output = stage.runs_dir / ref.run_id / "attempts" / "1" / "stdout.log"
        await eventually(lambda: output.exists() and output.stat().st_size == MIB)
        assert await read_all(stage, ref.run_id) == output.read_bytes()
        go_on.touch()
        await stage.ended(ref)
        assert await read_all(stage, ref.run_id) == output.read_bytes()
        tail = await ask(stage, run_id=ref.run_id, attempt=1, stream="stdout", offset=-10, limit=4)
        assert tail.data == output.read_bytes()[-10:-6]
        assert tail.headers == {subjects.OFFSET_HEADER: str(MIB - 10), subjects.SIZE_HEADER: str(MIB)}
        beyond = await ask(stage, run_id=ref.run_id, attempt=1, stream="stdout", offset=2 * MIB)
        assert beyond.data == b"" and (beyond.headers or {})[subjects.SIZE_HEADER] == str(MIB)
        index = await read_all(stage, ref.run_id, "index")
        assert msgspec.json.decode(index.splitlines()[-1])["offset"] == MIB


@pytest.mark.parametrize(
    ("request_", "code", "path"),
    [
        ({"run_id": "../../etc", "attempt": 1}, "invalid", "run_id"),
        ({"run_id": "a" * 26, "attempt": 0}, "invalid", "attempt"),
        ({"run_id": "a" * 26, "attempt": 1, "stream": "../intent.json"}, "invalid", "stream"),
        ({"run_id": "a" * 26, "attempt": 1, "limit": -1}, "invalid", "limit"),
        ({"run_id": "a" * 26, "attempt": "1"}, "invalid", "attempt"),
        ({"run_id": "a" * 26, "attempt": 1, "path": "/etc/passwd"}, "invalid", None),
        ({"run_id": "a" * 26, "attempt": 1}, "not_found", None),
    ],
)
async def test_a_bad_range_is_refused_by_its_field(
    stage: Stage, request_: dict[str, Any], code: str, path: str | None
) -> None:
    async with stage.agent(consumer=False):
        answer = await ask(stage, **request_)
    assert not answer.headers
    error = msgspec.json.decode(answer.data)["error"]
    assert (error["code"], error.get("path")) == (code, path)


async def test_a_request_that_names_no_reply_harms_nobody(stage: Stage) -> None:
    ref = new_ref()
    async with stage.agent():
        await stage.nc.publish(subjects.node_output(NODE), b"not JSON")
        await stage.dispatch(ref, python(""))
        assert isinstance(await stage.ended(ref), Completed)


async def test_a_flood_of_output_grows_no_memory_and_its_file_has_it_all(stage: Stage) -> None:
    ref, size = new_ref(), 200 * MIB
    out = await listen(stage, subjects.output(ref.run_id, 1, NODE, "stdout"))
    script = f"import os\nblock = os.urandom({MIB})\nfor _ in range({size // MIB}): os.write(1, block)"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with stage.agent():
        await stage.dispatch(ref, python(script))
        assert isinstance(await stage.ended(ref, within=60), Completed)
        await eventually(lambda: out.size == size)
        tail = await ask(stage, run_id=ref.run_id, attempt=1, stream="stdout", offset=-1)
        assert (tail.headers or {})[subjects.SIZE_HEADER] == str(size)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    received_mb = sum(len(data) for _, data in out.chunks) / MIB
    assert grown_mb < received_mb + 60  # what this test itself keeps, and no more than a little
    # Whatever was published is what the file has at that offset.
    fd = os.open(stage.runs_dir / ref.run_id / "attempts" / "1" / "stdout.log", os.O_RDONLY)
    try:
        assert all(os.pread(fd, len(data), offset) == data for offset, data in out.chunks[::50])
    finally:
        os.close(fd)


async def test_an_agent_that_comes_back_goes_on_where_the_index_ends(stage: Stage) -> None:
    ref, one, two = new_ref(), stage.root / "one", stage.root / "two"
    script = f"""
import os, time
os.write(1, b"first\\n")
while not os.path.exists({str(one)!r}): time.sleep(0.01)
os.write(1, b"second\\n")
"""
    out = await listen(stage, subjects.output(ref.run_id, 1, NODE, "stdout"))
    async with stage.agent() as first:
        await stage.dispatch(ref, script_that_waits(script, two))
        await eventually(lambda: out.chunks == [(0, b"first\n")])
        await first.kill()
    one.touch()
    async with stage.agent():
        await eventually(lambda: len(out.chunks) > 1)
        assert out.chunks == [(0, b"first\n"), (6, b"second\n")]
        two.touch()
        await stage.ended(ref)


async def test_var_logs_dir_takes_the_output(stage: Stage) -> None:
    ref, logs = new_ref(), stage.root / "logs"
    async with stage.agent(var_logs_dir=logs):
        await stage.dispatch(ref, python("print('here')"))
        await stage.ended(ref)
        assert (logs / ref.run_id / "1" / "stdout.log").read_text() == "here\n"
        assert await read_all(stage, ref.run_id) == b"here\n"
        assert (stage.runs_dir / ref.run_id).is_dir()


async def heartbeats(stage: Stage, run_id: str) -> list[RunHeartbeat]:
    subject = subjects.run_heartbeat(run_id, NODE)
    info = await stage.nc.request(
        f"$JS.API.STREAM.INFO.{subjects.HEARTBEATS_STREAM}",
        msgspec.json.encode({"subjects_filter": subject}),
        timeout=5,
    )
    stored = (msgspec.json.decode(info.data)["state"].get("subjects") or {}).get(subject, 0)
    found: list[RunHeartbeat] = []
    async with Feed(stage.nc, subjects.HEARTBEATS_STREAM, (subject,)) as feed:
        while len(found) < stored:
            for message in await feed.batch():
                said = decode_heartbeat(message.subject, message.body)
                assert isinstance(said, RunHeartbeat)
                found.append(said)
    return found


NOTIFY = """
import os, socket, time
def say(text):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
"""


async def test_what_a_worker_notifies_is_told_and_its_end_keeps_the_last(stage: Stage) -> None:
    ref, one, two = new_ref(), stage.root / "one", stage.root / "two"
    script = (
        NOTIFY
        + f"""
say("READY=1\\nSTATUS=warm\\nX_STEP=10\\nX_PROGRESS=0.25\\nX_METRIC_reward=1.5")
while not os.path.exists({str(one)!r}): time.sleep(0.01)
say("X_STEP=20\\nX_METRIC_reward=2.5")
"""
    )
    launch = {**script_that_waits(script, two), "heartbeat": {"source": "notify"}}
    async with stage.agent():
        await stage.dispatch(ref, launch)

        async def told_ready() -> bool:
            said = await heartbeats(stage, ref.run_id)
            return bool(said) and said[-1].step == 10

        await eventually(told_ready)
        said = (await heartbeats(stage, ref.run_id))[-1]
        assert said.ready_at is not None and said.status_text == "warm" and said.progress == 0.25
        one.touch()

        async def told_more() -> bool:
            return (await heartbeats(stage, ref.run_id))[-1].step == 20

        await eventually(told_more)
        said = (await heartbeats(stage, ref.run_id))[-1]
        assert said.metrics == {"reward": 2.5} and said.status_text == "warm" and said.ready_at is not None
        two.touch()
        end = await stage.ended(ref)
    last = end.last_heartbeat
    assert isinstance(last, LastHeartbeat)
    assert (last.step, last.metrics, last.status_text) == (20, {"reward": 2.5}, "warm")
    assert last.seq > 0 and last.ready_at is not None


async def test_a_worker_that_is_only_alive_has_a_heartbeat(stage: Stage) -> None:
    ref, go_on = new_ref(), stage.root / "go_on"
    async with stage.agent():
        await stage.dispatch(ref, script_that_waits("", go_on))
        await stage.told(ref, Started)

        async def told() -> bool:
            return bool(await heartbeats(stage, ref.run_id))

        await eventually(told)
        go_on.touch()
        end = await stage.ended(ref)
        assert end.last_heartbeat is not None and end.last_heartbeat.last_heartbeat_at is not None
        assert end.last_heartbeat.seq > 0


async def test_a_flood_of_notifications_is_coalesced(stage: Stage) -> None:
    ref, go_on = new_ref(), stage.root / "go_on"
    script = NOTIFY + "\nfor step in range(3000): say(f'X_STEP={step}')\n"
    async with stage.agent():
        await stage.dispatch(ref, {**script_that_waits(script, go_on), "heartbeat": {"source": "notify"}})

        async def told_all() -> bool:
            said = await heartbeats(stage, ref.run_id)
            return bool(said) and said[-1].step == 2999

        await eventually(told_all, 15)
        assert len(await heartbeats(stage, ref.run_id)) < 20
        go_on.touch()
        await stage.ended(ref)
