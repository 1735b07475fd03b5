"""The history of a run's metrics over kill -9 of the whole stack and of a shim, and as whoever follows it or asks for it sees it."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.stack import Stack, until
from trainshed_client import Trainshed
from trainshed_client.endpoint import read_endpoint
from trainshed_client.metrics import metrics_lines
from trainshed_client.nats_client import connect
from trainshed_client.nats_connection import NatsConnection

NewStack = Callable[..., Stack]

WORKER = """
import json, os, socket, time
tell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
attempt, folder = int(os.environ["TRAINSHED_ATTEMPT"]), os.environ["TRAINSHED_RUN_DIR"]
step = 50 * (attempt - 1)
while not os.path.exists(f"{folder}/stop{attempt}"):
    print(json.dumps({"type": "step", "step": step, "printed": attempt}), flush=True)
    tell.sendto(f"X_STEP={step}\\nX_METRIC_told={attempt}".encode(), os.environ["NOTIFY_SOCKET"])
    step += 1
    time.sleep(0.002)
"""


class History:
    """What stands in the files of a run."""

    def __init__(self, stack: Stack, run: str) -> None:
        self.folder = stack.run_dir(run) / "attempts"

    def printed(self, attempt: int) -> list[int]:
        """The steps of the lines that the worker has printed."""
        text = (self.folder / str(attempt) / "stdout.log").read_text()
        return [json.loads(line)["step"] for line in text.splitlines()]

    def of(self, attempt: int, name: str) -> list[int]:
        """The steps at which a metric stands in metrics.jsonl."""
        path = self.folder / str(attempt) / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line["step"] for line in map(json.loads, lines) if name in line["metrics"]]


def test_over_kills_of_stack_and_shim_every_printed_line_counts_once(new_stack: NewStack) -> None:
    stack = new_stack()
    run = stack.submit_config(
        {
            "entry_point": sys.executable,
            "arguments": ["-S", "-c", WORKER],
            "retry": {"max_attempts": 2, "backoff_s": 0},
        }
    )
    history = History(stack, run)
    for kill in range(3):
        before = len(history.of(1, "printed"))
        until(lambda: len(history.of(1, "printed")) > before)  # noqa: B023
        ahead = len(history.printed(1)) + 60 * kill  # with lines that are on their way, or some that are not
        until(lambda: len(history.printed(1)) > ahead)  # noqa: B023
        stack.kill()
        away = len(history.printed(1)) + 300
        until(lambda: len(history.printed(1)) > away)  # noqa: B023
        stack.start()
    started = json.loads((stack.state_dir / "attempts" / run / "1" / "started.json").read_text())
    os.kill(started["shim_pid"], signal.SIGKILL)
    until(lambda: len(history.of(2, "told")) > 100, 20.0)
    (stack.run_dir(run) / "stop2").touch()
    (record,) = stack.wait(run)
    for attempt in (1, 2):
        assert history.of(attempt, "printed") == history.printed(attempt)
    told = history.of(1, "told")
    assert (
        told == list(range(len(told))) and len(told) > 1000
    )  # killed, the shim takes at most a second's with it
    assert history.of(2, "told") == history.printed(2)
    assert record["metrics"] == {"printed": 2, "told": 2} and record["step"] == history.printed(2)[-1]
    (first, second) = stack.show(run)["attempts"]
    assert (first["failure_reason"], first["step"]) == ("shim_lost", history.printed(1)[-1])
    assert first["metrics"] == {"printed": 1, "told": 1} and second["status"] == "COMPLETED"

    answer = stack.trainshed("metrics", run, json=True)
    assert (answer["v"], answer["run_id"], answer["missing"], answer["left_out"]) == (1, run, [], 0)
    steps = [point["step"] for point in answer["points"]]
    assert steps == list(range(steps[-1] + 1))  # both attempts, joined: the second began at step 50
    of_second = set(history.printed(2))
    for point in answer["points"]:
        assert point["attempt"] == (2 if point["step"] in of_second else 1)
        assert set(point["metrics"].values()) == {point["attempt"]}
    rows = list(csv.DictReader(stack.trainshed("metrics", run, "--csv").lines))
    assert [int(row["step"]) for row in rows] == steps
    assert stack.trainshed("metrics", run).lines[0].split() == [
        "METRIC",
        "VALUES",
        "FIRST",
        "LAST",
        "MIN",
        "MAX",
    ]


async def test_a_follower_of_metrics_sees_each_line_once_and_none_that_stays_is_missing(
    new_stack: NewStack, tmp_path: Path
) -> None:
    """64 long names a line: after 3,600 lines the file is thinned."""
    stack = new_stack()
    script = f"""
import os, socket, time
tell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
names = [f"{{number:02}}" + "n" * 58 for number in range(64)]
for step in range(5000):
    if step == 1000:
        while not os.path.exists({str(tmp_path / "go_on")!r}): time.sleep(0.01)
    text = f"X_STEP={{step}}\\n" + "".join(f"X_METRIC_{{name}}=1\\n" for name in names)
    tell.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
"""
    run = await asyncio.to_thread(stack.submit, "--", sys.executable, "-c", script)
    endpoint = read_endpoint(stack.state_dir)
    seen: list[Any] = []
    async with (
        Trainshed(NatsConnection(await connect(endpoint, name="test"), endpoint.url)) as trainshed,
        asyncio.timeout(60),
        trainshed.output(run, streams=("metrics",), patient=True) as output,
    ):
        async for attempt, line in metrics_lines(output):
            assert attempt == 1
            seen.append(line.step)
            if len(seen) == 1000:  # live: the run waits for it
                (tmp_path / "go_on").touch()
    assert output.missing == []
    assert seen[:1000] == list(range(1000)) and seen == sorted(set(seen))
    path = stack.run_dir(run) / "attempts" / "1" / "metrics.jsonl"
    first, *lines = map(json.loads, path.read_text().splitlines())
    stayed = [line["step"] for line in lines]
    assert first["thinned"]["lines"] == 5000 - len(stayed) > 1000 and set(stayed) <= set(seen)
    assert (stayed[0], stayed[-1]) == (0, 4999)
    shown = await asyncio.to_thread(stack.trainshed, "metrics", run)
    assert f"{first['thinned']['lines']:,} messages are left out" in shown.stderr
