"""The blocking face of the client on a whole stack: in a running loop, interrupted, forked, dropped, and iterators."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, until
from trainshed_client import PRESENT, ErrorCode, QueueRecord, RunStatus, Trainshed, TrainshedError
from trainshed_client.sync import SyncTrainshed


@pytest.fixture
def trainshed(stack: Stack) -> Iterator[SyncTrainshed]:
    with Trainshed.sync(url(stack)) as connected:
        yield connected


def url(stack: Stack) -> str:
    import json

    found = json.loads((stack.state_dir / "endpoint.json").read_text())
    scheme, _, rest = found["url"].partition("://")
    return f"{scheme}://{found['user']}:{found['password']}@{rest}" if found.get("user") else found["url"]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "trainshed"]


def shell(script: str, **more: object) -> dict[str, object]:
    return {"entry_point": "/bin/sh", "arguments": ["-c", script], **more}


async def test_it_works_inside_a_running_loop(stack: Stack) -> None:
    """As in Jupyter: this test is a coroutine."""
    with Trainshed.sync(url(stack)) as trainshed:
        submission = trainshed.submit(shell("echo loop"))
        (record,) = trainshed.wait([submission.run_id], timeout=30)
        assert record.status is RunStatus.COMPLETED
        assert record.ended_at is not None and record.ended_at.tzinfo is not None
    assert threads() == []


def test_what_is_followed_is_an_iterator_that_ends_with_its_run(trainshed: SyncTrainshed) -> None:
    script = """echo '{"type": "step", "n": 1}'; echo plain; sleep 0.5; printf '{"event": "end"}\\n'"""
    run = trainshed.submit(shell(script, labels={"of": "lines"})).run_id
    with trainshed.output(run) as output:
        assert b"".join(chunk.data for chunk in output if chunk.stream == "stdout").count(b"\n") == 3
        assert output.record.status is RunStatus.COMPLETED and output.missing == []
    lines = list(trainshed.telemetry(run))
    assert [line.data for line in lines] == [{"type": "step", "n": 1}, {"event": "end"}]
    assert list(trainshed.telemetry(run, since=lines[0].offset + 1)) == lines[1:]
    assert list(trainshed.telemetry(run, since=lines[1].offset)) == lines[1:]
    assert [one.run_id for one in trainshed.list(limit=1)] == [run]


def test_an_iterator_is_closed_by_another_thread_and_by_nobody(trainshed: SyncTrainshed) -> None:
    watched = trainshed.watch_runs()
    seen: list[object] = []
    reading = threading.Thread(target=lambda: seen.extend(watched))
    reading.start()
    run = trainshed.submit(shell("true", labels={"of": "watch"})).run_id
    trainshed.wait([run], timeout=30)
    time.sleep(0.2)
    watched.close()
    reading.join(5)
    assert not reading.is_alive() and PRESENT in seen
    assert next(iter(watched), None) is None
    for record in trainshed.watch_queue():
        assert record is PRESENT or isinstance(record, QueueRecord)
        break
    gc.collect()
    assert trainshed.health()


@pytest.mark.filterwarnings("error")
def test_one_that_nobody_has_any_more_leaves_no_thread_and_no_socket(stack: Stack) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        Trainshed.sync(url(stack)).health()
    gc.collect()
    until(lambda: not threads() and len(os.listdir("/proc/self/fd")) <= before)


def test_a_closed_one_says_so_and_closes_again(stack: Stack) -> None:
    trainshed = Trainshed.sync(url(stack))
    assert repr(trainshed) == f"<Trainshed.sync at {trainshed.where}>"
    trainshed.close()
    trainshed.close()
    assert repr(trainshed).endswith(", closed>")
    with pytest.raises(TrainshedError, match="is closed") as refused:
        trainshed.health()
    assert refused.value.code is ErrorCode.UNAVAILABLE


def test_a_forked_process_is_told_to_make_its_own(trainshed: SyncTrainshed) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            trainshed.health()
        except TrainshedError as error:
            os.write(write, str(error).encode())
        trainshed.close()
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert b"before this process was forked" in pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert trainshed.health()


@pytest.mark.parametrize("work", ["t.wait([run])", "list(t.watch_slots())", "list(t.output(run))"])
def test_an_interrupt_ends_a_call_and_the_connection_goes_on(stack: Stack, work: str) -> None:
    program = f"""
import sys
from trainshed_client import Trainshed
t = Trainshed.sync({url(stack)!r})
run = t.submit({{"entry_point": "/bin/sleep", "arguments": ["300"], "labels": {{"of": {work!r}}}}}).run_id
print("waits", flush=True)
try:
    {work}
except KeyboardInterrupt:
    print("interrupted", t.cancel(run).run_id == run, flush=True)
"""
    done = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert done.stdout is not None and done.stdout.readline() == b"waits\n"
    time.sleep(0.5)
    done.send_signal(signal.SIGINT)
    out, err = done.communicate(timeout=20)
    assert (out, err, done.returncode) == (b"interrupted True\n", b"", 0)


def test_a_callback_of_its_own_may_not_wait_for_it(trainshed: SyncTrainshed) -> None:
    run = trainshed.submit(shell("echo a", labels={"of": "callback"})).run_id
    heard: list[str] = []

    def on_record(record: object) -> None:
        try:
            trainshed.health()
        except TrainshedError as error:
            heard.append(error.message)

    list(trainshed.output(run, on_record=on_record))
    assert heard and "a callback of its own" in heard[0]


def test_artifacts_are_listed_read_and_fetched(trainshed: SyncTrainshed, tmp_path: Path) -> None:
    run = trainshed.submit(
        shell("mkdir -p artifacts && printf model > artifacts/m.pt", labels={"of": "file"})
    ).run_id
    trainshed.wait([run], timeout=30)
    assert [(one.path, one.bytes) for one in trainshed.artifacts(run)] == [("m.pt", 5)]
    assert trainshed.read_artifact(run, "m.pt") == b"model"
    assert trainshed.fetch_artifact(run, "m.pt", tmp_path).read_bytes() == b"model"
    with pytest.raises(TrainshedError) as refused:
        trainshed.fetch_artifact(run, "no.pt", tmp_path)
    assert refused.value.code is ErrorCode.NOT_FOUND
    assert [one.name for one in tmp_path.iterdir()] == ["m.pt"]
