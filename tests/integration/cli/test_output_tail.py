"""A failed run's last lines where its machine does not answer: the log has kept the end of them."""

from __future__ import annotations

from events.streams import ensure_streams
from events.types import Failed
from services.cli.output_tail import LINES, output_tail
from tests.support import NatsServer
from tests.support.control import writer
from tests.unit.test_cli_words import record
from trainshed_client.answers import RunView
from trainshed_client.client import Trainshed
from trainshed_client.nats_connection import NatsConnection
from trainshed_client.records import AttemptRecord
from trainshed_client.statuses import FailureReason, RunStatus
from trainshed_client.subjects import Role

RUN = "k3f2q7" + "a" * 20


def view(attempt: int) -> RunView:
    failed = AttemptRecord(run_id=RUN, attempt=attempt, status=RunStatus.FAILED, node="gpu01")
    run = record(RUN, status=RunStatus.FAILED, attempt=attempt)
    return RunView(seq=1, run=run, config={}, attempts=[failed], timeline=[])


async def test_what_the_log_kept_is_told_where_the_agent_is_away(nats_server: NatsServer) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    text = "".join(f"line {n}\n" for n in range(20)) + "10%\r50%\r\x1b[1m100%\x1b[0m\r\n\n"
    failed = Failed(
        run_id=RUN, attempt=1, failure_reason=FailureReason.EXIT_CODE, exit_code=1, output_tail=text
    )
    new = writer(Role.AGENT, "gpu01").new(failed)
    await nc.jetstream().publish(new.subject, new.body)
    trainshed = Trainshed(NatsConnection(nc, nats_server.endpoint.url))
    tail = await output_tail(trainshed, view(1))
    assert tail is not None
    assert tail.source == "output"
    assert tail.lines == [*(f"line {n}" for n in range(20 - LINES + 1, 20)), "100%"]
    assert await output_tail(trainshed, view(2)) is None
