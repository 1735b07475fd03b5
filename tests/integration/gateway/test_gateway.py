"""The gateway on a real nats-server: one run for one config however it is sent, and refusals that append nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.codec import StoredEvent
from events.log import EventLog
from events.types import (
    CancelRequested,
    Completed,
    Elected,
    Event,
    Failed,
    LogAccepted,
    NodeLeft,
    NodeLost,
    NodeRemoved,
    RetryRequested,
    SchedulerInfo,
    Submitted,
)
from services.fold import SharedFold
from services.gateway.gateway import Gateway
from tests.support import NatsServer, RawNats, eventually
from tests.support.builders import EXAMPLES
from tests.support.configs import digest_of, run_config
from tests.support.control import (
    ask,
    everything,
    gateway,
    joined,
    kill_and_start_again,
    new_log,
    running,
    say,
    stopped,
    writer,
)
from trainshed_client import subjects
from trainshed_client.statuses import FailureReason
from trainshed_client.subjects import Role

CONFIG: dict[str, Any] = {
    "entry_point": "/usr/bin/python3",
    "arguments": ["train.py", "--seed", "1"],
    "environment": {"A": "1", "B": "ä"},
    "labels": {"team": "rl"},
    "resources": {"cpus": 2, "gpus": {"requested": 1}},
    "metadata": {"ui": {"algo": "ppo", "rate": 0.001}},
}
SPELLED_OUT: dict[str, Any] = {
    "priority": 0,
    "after": [],
    "secrets": {},
    "working_dir": None,
    "submission_key": None,
    "run_name": "python3",
    "stop": {"signal": "SIGTERM", "grace_s": 5},
    "retry": {"max_attempts": 1, "backoff_s": 10.0},
    "schedule": {"max_duration_seconds": None},
    "heartbeat": {"source": "process", "timeout_s": None},
    "artifacts": {"persist_logs": True},
}


def shuffled(value: Any, dice: random.Random) -> Any:
    """The same JSON with its keys in another order."""
    match value:
        case dict():
            keys = list(value)
            dice.shuffle(keys)
            return {key: shuffled(value[key], dice) for key in keys}
        case list():
            return [shuffled(item, dice) for item in value]
        case _:
            return value


def spelled(seed: int) -> dict[str, Any]:
    """CONFIG with some defaults spelled out, in some order."""
    dice = random.Random(seed)
    more = {key: value for key, value in SPELLED_OUT.items() if dice.random() < 0.5}
    config = {**CONFIG, **more}
    if dice.random() < 0.5:
        config["resources"] = {"cpus": 2, "memory_mb": 0, "gpus": {"requested": 1, "mandatory": True}}
    out: dict[str, Any] = shuffled(config, dice)
    return out


class Served:
    """A gateway on a server of its own, with a connection that asks and one that writes the log."""

    def __init__(self, server: NatsServer, log: EventLog, fold: SharedFold, service: Gateway) -> None:
        self.server = server
        self.log = log
        self.fold = fold
        self.service = service

    async def submit(self, config: object) -> Any:
        return await ask(self.log.nc, "run.submit", config)

    async def error(self, call: str, request: object) -> dict[str, Any]:
        """The error that is answered; nothing may be appended."""
        before = await self.log.end()
        answer = await ask(self.log.nc, call, request)
        assert set(answer) == {"error"}, answer
        assert await self.log.end() == before
        return dict(answer["error"])

    async def say(self, role: Role, event: Event, node: str | None = None) -> int:
        """Append and wait until the gateway has folded it."""
        seq = await say(self.log, role, event, node)
        await self.fold.reached(seq)
        return seq

    async def elect(self) -> int:
        return await self.say(
            Role.DISPATCHER, Elected(name="x", scheduler=SchedulerInfo(name="s", version=1))
        )

    async def grant(self, run_id: str, attempt: int = 1) -> None:
        """Dispatched, by the dispatcher of the present epoch."""
        await self.say(
            Role.DISPATCHER,
            msgspec.structs.replace(
                EXAMPLES["dispatched"][1], run_id=run_id, attempt=attempt, epoch=self.fold.state.epoch
            ),
        )

    async def end(self, run_id: str, attempt: int = 1, *, well: bool = True) -> None:
        """Grant the run and end it."""
        await self.grant(run_id, attempt)
        if well:
            await self.say(Role.AGENT, Completed(run_id=run_id, attempt=attempt), "gpu01")
        else:
            await self.say(
                Role.AGENT,
                Failed(run_id=run_id, attempt=attempt, failure_reason=FailureReason.EXIT_CODE),
                "gpu01",
            )

    async def events(self, kind: type[Event]) -> list[StoredEvent]:
        return [one for one in await everything(self.log) if isinstance(one.event, kind)]


@pytest.fixture
async def served(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with gateway(nats_server, tmp_path / "fold") as (fold, service):
        yield Served(nats_server, await new_log(nats_server), fold, service)


# --- one config is one run --------------------------------------------------------------------------------


async def test_a_submission_is_answered_as_designed(served: Served) -> None:
    answer = await served.submit(CONFIG)
    assert answer.keys() == {"run_id", "digest", "created", "status", "seq"}
    assert (answer["created"], answer["status"], answer["seq"]) == (True, "PENDING", 1)
    (stored,) = await served.events(Submitted)
    event = stored.event
    assert isinstance(event, Submitted)
    assert (event.run_id, event.digest, event.submitted_by) == (answer["run_id"], answer["digest"], "local")
    assert json.loads(bytes(event.config)) == CONFIG
    assert stored.seq == answer["seq"]


async def test_fifty_concurrent_submits_of_one_config_in_any_spelling_make_one_run(
    served: Served, nats_server: NatsServer
) -> None:
    clients = [await nats_server.client(f"client-{number}") for number in range(10)]
    answers = await asyncio.gather(
        *(ask(clients[number % 10], "run.submit", spelled(number)) for number in range(50))
    )
    assert len({json.dumps(spelled(number)) for number in range(50)}) > 40
    assert sum(answer["created"] for answer in answers) == 1
    assert len({(a["run_id"], a["digest"], a["seq"], a["status"]) for a in answers}) == 1
    assert len(await everything(served.log)) == 1


async def test_several_gateways_make_one_run_of_it_too(served: Served, nats_server: NatsServer) -> None:
    async with gateway(nats_server), gateway(nats_server):
        clients = [await nats_server.client(f"client-{number}") for number in range(5)]
        answers = await asyncio.gather(
            *(ask(clients[number % 5], "run.submit", spelled(number)) for number in range(50))
        )
    assert sum(answer["created"] for answer in answers) == 1
    assert len(await everything(served.log)) == 1


async def test_right_after_a_restart_of_gateway_and_server_the_run_exists(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with gateway(nats_server, tmp_path / "fold"):
        first = await ask(await nats_server.client(), "run.submit", CONFIG)
    await kill_and_start_again(nats_server)
    for snapshot in (tmp_path / "fold", None):
        async with gateway(nats_server, snapshot):
            again = await ask(await nats_server.client(), "run.submit", spelled(3))
            assert again == {**first, "created": False}


async def test_a_run_that_ended_long_ago_is_answered_with_how_it_ended(served: Served) -> None:
    first = await served.submit(CONFIG)
    await served.elect()
    await served.end(first["run_id"])
    for number in range(200):
        await served.log.append(_gateway_event(CancelRequested(run_id="nobody", reason=str(number))))
    await served.fold.reached(await served.log.end())
    again = await served.submit(spelled(1))
    assert again == {**first, "created": False, "status": "COMPLETED"}


async def test_the_present_status_of_a_live_run_is_answered(served: Served) -> None:
    first = await served.submit(CONFIG)
    await served.elect()
    await served.grant(first["run_id"])
    assert (await served.submit(CONFIG))["status"] == "DISPATCHING"


async def test_another_submission_key_makes_another_run(served: Served) -> None:
    ids = {(await served.submit({**CONFIG, "submission_key": key}))["run_id"] for key in ("a", "b", None)}
    assert len(ids) == 3


async def test_the_callers_path_is_kept_beside_the_config_and_makes_no_other_run(served: Served) -> None:
    first = await served.submit({"config": CONFIG, "caller_path": "/opt/a/bin:/bin"})
    again = await served.submit({"config": CONFIG, "caller_path": "/opt/b/bin:/bin"})
    bare = await served.submit(CONFIG)
    assert (first["created"], again["created"], bare["created"]) == (True, False, False)
    assert {one["run_id"] for one in (first, again, bare)} == {digest_of(run_config(CONFIG)).run_id}
    (stored,) = [one.event for one in await everything(served.log) if isinstance(one.event, Submitted)]
    assert stored.caller_path == "/opt/a/bin:/bin"
    assert served.fold.state.runs[first["run_id"]].caller_path == "/opt/a/bin:/bin"
    check = await ask(served.log.nc, "run.check", {"config": CONFIG, "caller_path": "/x"})
    assert (check["new"], check["digest"]) == (False, first["digest"])


async def test_where_the_code_was_read_is_kept_beside_the_config_and_makes_no_other_run(
    served: Served,
) -> None:
    config = {**CONFIG, "code": {"sha256": "ab" * 32}}
    here = {"folder": "/srv/rl", "commit": "9d31", "dirty": True, "ignore": ["*.ipynb"]}
    first = await served.submit({"config": config, "provenance": here})
    again = await served.submit(
        {"config": config, "provenance": {**here, "commit": None, "folder": "/home/bo"}}
    )
    assert (first["run_id"], again["created"]) == (digest_of(run_config(config)).run_id, False)
    assert (await served.submit(CONFIG))["created"]
    run = served.fold.state.runs[first["run_id"]]
    assert (run.code_folder, run.code_ignore) == ("/srv/rl", ("*.ipynb",))
    (stored, _) = [one.event for one in await everything(served.log) if isinstance(one.event, Submitted)]
    assert msgspec.json.decode(msgspec.json.encode(stored.provenance)) == here


async def test_what_is_beside_a_batch_is_beside_each_of_its_runs_that_bears_nothing(served: Served) -> None:
    own = {"config": sweep(1)[0], "caller_path": "/own"}
    runs = [*sweep(2), own]
    answer = await ask(
        served.log.nc,
        "run.submit_batch",
        {"runs": runs, "caller_path": "/bin", "provenance": {"folder": "/srv/rl"}},
    )
    assert len(answer["runs"]) == 2
    events = [one.event for one in await everything(served.log) if isinstance(one.event, Submitted)]
    assert [one.caller_path for one in events] == ["/bin", "/own"]
    assert [one.provenance and one.provenance.folder for one in events] == ["/srv/rl", None]
    assert (await served.error("run.submit_batch", {"runs": runs, "provenance": {"folder": 1}}))[
        "path"
    ] == "provenance.folder"


@pytest.mark.parametrize(
    ("beside", "path"),
    [
        ({"caller_path": 1}, "caller_path"),
        ({"caller_path": "/bin:\0"}, "caller_path"),
        ({"caller_path": "x" * 40_000}, "caller_path"),
        ({"callers_path": "/bin"}, "callers_path"),
        ({"provenance": "/srv/rl"}, "provenance"),
        ({"provenance": {"folder": "rl"}}, "provenance.folder"),
        ({"provenance": {"folder": "/srv/rl", "branch": "main"}}, "provenance.branch"),
        ({"provenance": {"folder": "/srv/rl", "dirty": "no"}}, "provenance.dirty"),
        ({"provenance": {"folder": "/srv/rl", "ignore": ["x" * 20_000]}}, "provenance"),
    ],
)
async def test_what_is_sent_beside_a_config_is_checked(
    served: Served, beside: dict[str, Any], path: str
) -> None:
    one = {"config": CONFIG, **beside}
    assert (await served.error("run.submit", one))["path"] == path
    assert (await served.error("run.submit_batch", {"runs": [CONFIG, one]}))["path"] == f"runs[1].{path}"


async def test_rule_2_a_submission_whose_answer_was_lost_is_settled_by_its_id(
    nats_server: NatsServer,
) -> None:
    """The server stands still: the append times out, is stored all the same, and was this one."""
    log = await new_log(nats_server, "gateway", timeout_s=0.3)
    fold = SharedFold(log, await log.log_id())
    service = Gateway(log, fold)
    async with running(fold, service):
        await service.ready.wait()
        client = await nats_server.client()
        real = log.append
        other = {**CONFIG, "submission_key": "lost"}

        async def lost(event: Any, guard: Any = None) -> Any:
            log.append = real  # type: ignore[method-assign]
            with stopped(nats_server.pid):
                return await real(event, guard)

        log.append = lost  # type: ignore[method-assign]
        answer = await ask(client, "run.submit", other)
        assert answer["created"] is True
        assert await ask(client, "run.submit", other) == {**answer, "created": False}
        assert len(await everything(log)) == 1


# --- batches ----------------------------------------------------------------------------------------------


def sweep(*seeds: int) -> list[dict[str, Any]]:
    return [{**CONFIG, "arguments": ["train.py", "--seed", str(seed)]} for seed in seeds]


async def test_a_batch_is_one_answer_for_each_in_order(served: Served) -> None:
    answer = await ask(served.log.nc, "run.submit_batch", {"runs": sweep(*range(20))})
    assert [run["created"] for run in answer["runs"]] == [True] * 20
    assert [run["seq"] for run in answer["runs"]] == list(range(1, 21))


async def test_runs_of_a_batch_that_exist_or_repeat_are_not_created(served: Served) -> None:
    (existing,) = sweep(2)
    first = await served.submit(existing)
    answer = await ask(served.log.nc, "run.submit_batch", {"runs": sweep(1, 2, 3, 1)})
    runs = answer["runs"]
    assert [run["created"] for run in runs] == [True, False, True, False]
    assert runs[1]["run_id"] == first["run_id"]
    assert runs[3] == {**runs[0], "created": False}
    assert len(await everything(served.log)) == 3


async def test_many_overlapping_batches_at_once_create_each_run_once(
    served: Served, nats_server: NatsServer
) -> None:
    clients = [await nats_server.client(f"client-{number}") for number in range(5)]
    answers = await asyncio.gather(
        *(
            ask(clients[number % 5], "run.submit_batch", {"runs": sweep(*range(number, number + 12))})
            for number in range(10)
        )
    )
    created = [run["run_id"] for answer in answers for run in answer["runs"] if run["created"]]
    assert len(created) == len(set(created)) == 21
    assert len(await everything(served.log)) == 21


async def test_one_bad_config_refuses_the_whole_batch_by_its_place(served: Served) -> None:
    runs = [*sweep(1, 2), {**CONFIG, "priority": "high"}]
    error = await served.error("run.submit_batch", {"runs": runs})
    assert (error["code"], error["path"]) == ("invalid", "runs[2].priority")
    await served.say(Role.AGENT, joined(slots=2), "gpu01")
    runs[2] = {**CONFIG, "resources": {"gpus": {"requested": 3}}}
    error = await served.error("run.submit_batch", {"runs": runs})
    assert error["path"] == "runs[2].resources.gpus.requested"


async def test_a_thousand_runs_are_one_batch_and_one_more_is_refused(served: Served) -> None:
    thousand = [{"entry_point": "/bin/true", "priority": number} for number in range(1_000)]
    error = await served.error("run.submit_batch", {"runs": [*thousand, {"entry_point": "/bin/false"}]})
    assert error["code"] == "too_large"
    answer = await ask(served.log.nc, "run.submit_batch", {"runs": thousand})
    assert sum(run["created"] for run in answer["runs"]) == 1_000
    again = await ask(served.log.nc, "run.submit_batch", {"runs": thousand})
    assert not any(run["created"] for run in again["runs"])


@pytest.mark.parametrize("request_", [{}, {"runs": []}, {"runs": {}}, {"runs": "x"}, {"configs": []}, []])
async def test_a_batch_of_another_form_is_refused(served: Served, request_: object) -> None:
    assert (await served.error("run.submit_batch", request_))["code"] == "invalid"


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({**CONFIG, "colour": "blue"}, "colour"),
        ({**CONFIG, "priority": 1.5}, "priority"),
        ({**CONFIG, "resources": {"gpus": {"requested": -1}}}, "resources.gpus.requested"),
        ({**CONFIG, "environment": {"AWS_SECRET_ACCESS_KEY": "x"}}, "environment.AWS_SECRET_ACCESS_KEY"),
        ({**CONFIG, "after": ["a" * 26]}, "after[0]"),
        ({**CONFIG, "after": ["*"]}, "after[0]"),
        ({"arguments": []}, "entry_point"),
    ],
)
async def test_a_bad_config_is_refused_by_its_field_and_nothing_is_appended(
    served: Served, config: dict[str, Any], path: str
) -> None:
    error = await served.error("run.submit", config)
    assert (error["code"], error["path"]) == ("invalid", path)
    assert error["message"]


@pytest.mark.parametrize("call", ["run.submit", "run.submit_batch", "run.cancel", "node.drain"])
async def test_what_is_no_request_is_refused_and_the_next_is_answered(served: Served, call: str) -> None:
    for body in (
        b"not json",
        b"\xff\xfe",
        b"[1,2]",
        b"null",
        b"5",
        b'{"entry_point": "a", "entry_point": "b"}',
        b'{"entry_point": "/bin/true", "priority": NaN}',
        b'{"entry_point": "\\ud800"}',
        b'{"\\ud800": 1}',
        b"[" * 10_000,
        b"",
    ):
        assert (await served.error(call, body))["code"] == "invalid", body
    assert (await served.submit(CONFIG))["created"] is True


async def test_headers_that_are_not_utf8_are_answered_too(served: Served, nats_server: NatsServer) -> None:
    inbox = served.log.nc.new_inbox()
    answers = await served.log.nc.subscribe(inbox)
    await served.log.nc.flush()
    async with RawNats(nats_server.endpoint) as raw:
        await raw.publish(
            subjects.api("run.submit").encode(),
            json.dumps(CONFIG).encode(),
            headers=b"NATS/1.0\r\nX: \xff\xfe\r\n\r\n",
            reply=inbox.encode(),
        )
    assert json.loads((await answers.next_msg(timeout=5)).data)["created"] is True


async def test_a_config_that_is_too_large_is_refused(served: Served) -> None:
    error = await served.error("run.submit", {**CONFIG, "metadata": {"x": "y" * 300_000}})
    assert error["code"] == "too_large"


async def test_what_no_known_node_could_hold_is_refused_unless_it_exists(served: Served) -> None:
    large = {**CONFIG, "resources": {"gpus": {"requested": 4}}}
    first = await served.submit(large)
    assert first["created"], "with no node known it is accepted"
    await served.say(Role.AGENT, joined(slots=2), "gpu01")
    assert await served.submit(large) == {**first, "created": False}
    batch = await ask(served.log.nc, "run.submit_batch", {"runs": [large]})
    assert batch == {"runs": [{**first, "created": False}]}
    error = await served.error("run.submit", {**large, "submission_key": "new"})
    assert (error["code"], error["path"]) == ("invalid", "resources.gpus.requested")


async def test_a_run_may_come_after_runs_that_exist_live_or_ended(served: Served) -> None:
    await served.elect()
    ended = await served.submit({**CONFIG, "submission_key": "ended"})
    await served.end(ended["run_id"])
    live = await served.submit({**CONFIG, "submission_key": "live"})
    answer = await served.submit({**CONFIG, "after": [ended["run_id"], live["run_id"]]})
    await served.fold.reached(answer["seq"])
    assert getattr(served.fold.state.runs[answer["run_id"]].phase, "waiting_for", None) == {live["run_id"]}


async def test_words_about_a_run_that_was_never_submitted_are_told_and_do_not_hang(served: Served) -> None:
    """A raw writer said something of that run id: the guard holds nobody's Submitted back for ever."""
    other = await served.submit({**CONFIG, "submission_key": "probe"})
    probe = {**CONFIG, "submission_key": "haunted"}
    run_id = _run_id_of(probe)
    assert run_id != other["run_id"]
    await say(served.log, Role.GATEWAY, CancelRequested(run_id=run_id))
    error = await served.error("run.submit", probe)
    assert error["code"] == "conflict"


# --- cancel and retry ---------------------------------------------------------------------------------------


async def test_cancel_of_a_live_run_appends_once_and_answers_its_status(served: Served) -> None:
    run_id = (await served.submit(CONFIG))["run_id"]
    answer = await ask(served.log.nc, "run.cancel", {"run_id": run_id, "reason": "enough"})
    assert answer == {"run_id": run_id, "status": "PENDING", "seq": 2}
    (stored,) = await served.events(CancelRequested)
    assert stored.event == CancelRequested(run_id=run_id, reason="enough", requested_by="local")
    again = await ask(served.log.nc, "run.cancel", {"run_id": run_id})
    assert again["status"] == "PENDING"
    assert len(await served.events(CancelRequested)) == 1


@pytest.mark.parametrize(("well", "status"), [(True, "COMPLETED"), (False, "FAILED")])
async def test_cancel_of_an_ended_run_answers_its_status_and_appends_nothing(
    served: Served, well: bool, status: str
) -> None:
    await served.elect()
    run_id = (await served.submit(CONFIG))["run_id"]
    await served.end(run_id, well=well)
    before = await served.log.end()
    answer = await ask(served.log.nc, "run.cancel", {"run_id": run_id})
    assert (answer["run_id"], answer["status"]) == (run_id, status)
    assert await served.log.end() == before


async def test_retry_of_an_ended_run_queues_it_again(served: Served) -> None:
    await served.elect()
    run_id = (await served.submit(CONFIG))["run_id"]
    await served.end(run_id, well=False)
    answer = await ask(served.log.nc, "run.retry", {"run_id": run_id})
    assert answer["status"] == "PENDING"
    (stored,) = await served.events(RetryRequested)
    assert stored.event == RetryRequested(run_id=run_id, attempt=1)
    assert (await served.submit(CONFIG))["status"] == "PENDING"
    error = await served.error("run.retry", {"run_id": run_id})
    assert error["code"] == "conflict"


async def test_cancels_and_retries_from_many_at_once_leave_one_truth(served: Served) -> None:
    await served.elect()
    run_id = (await served.submit(CONFIG))["run_id"]
    await served.end(run_id, well=False)
    answers = await asyncio.gather(*(ask(served.log.nc, "run.retry", {"run_id": run_id}) for _ in range(20)))
    assert any("error" not in answer for answer in answers)
    assert served.fold.state.runs[run_id].attempt == 2


@pytest.mark.parametrize("call", ["run.cancel", "run.retry"])
async def test_a_run_that_is_not_there_is_not_found(served: Served, call: str) -> None:
    for run_id in ("a" * 26, "nobody", "*", "a.b", ">", "ä", "x" * 10_000):
        error = await served.error(call, {"run_id": run_id})
        assert (error["code"], error["path"]) == ("not_found", "run_id"), run_id
    assert (await served.error(call, {"run_id": ""}))["code"] == "invalid"


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        ({}, "run_id"),
        ({"run_id": 5}, "run_id"),
        ({"run_id": "x", "why": "y"}, "why"),
        ({"reason": []}, "reason"),
    ],
)
async def test_a_bad_cancel_names_its_field(served: Served, request_: dict[str, Any], path: str) -> None:
    error = await served.error("run.cancel", request_)
    assert (error["code"], error["path"]) == ("invalid", path)


async def test_a_cancel_right_after_the_submit_of_another_gateway_finds_the_run(
    served: Served, nats_server: NatsServer
) -> None:
    for number in range(30):
        event = _gateway_event(
            Submitted(run_id=f"r{number}", config=msgspec.Raw(b'{"entry_point":"/bin/true"}'), digest="")
        )
        await served.log.append(event)
        answer = await ask(served.log.nc, "run.cancel", {"run_id": f"r{number}"})
        assert answer["status"] == "PENDING"
    assert len(await served.events(CancelRequested)) == 30


# --- nodes ------------------------------------------------------------------------------------------------


async def test_drain_and_resume(served: Served) -> None:
    await served.say(Role.AGENT, joined(), "gpu01")
    answer = await ask(served.log.nc, "node.drain", {"node": "gpu01", "reason": "disk"})
    assert answer == {"node": "gpu01", "status": "up", "seq": 2}
    assert served.fold.state.nodes["gpu01"].drained
    assert (await ask(served.log.nc, "node.drain", {"node": "gpu01"}))["seq"] == 2
    assert (await ask(served.log.nc, "node.resume", {"node": "gpu01"}))["seq"] == 3
    assert not served.fold.state.nodes["gpu01"].drained
    assert await served.log.end() == 3


async def test_rule_21_the_log_is_accepted_with_a_reason_and_nothing_else_changes(served: Served) -> None:
    await served.say(Role.AGENT, joined(), "gpu01")
    before = msgspec.json.encode(served.fold.state.nodes)
    for reason in (None, "", "  \n", "x" * 2_001):
        error = await served.error("audit.accept", {"reason": reason})
        assert (error["code"], error["path"]) == ("invalid", "reason")
    assert await ask(served.log.nc, "audit.accept", {"reason": " restored "}) == {"seq": 2}
    stored = (await everything(served.log))[-1]
    assert (str(stored.subject), stored.event) == (
        subjects.LOG_ACCEPTED,
        LogAccepted(reason="restored", accepted_by="local"),
    )
    assert msgspec.json.encode(served.fold.state.nodes) == before
    await served.say(Role.GATEWAY, LogAccepted(reason="again"))  # whatever it follows


async def test_rule_12_a_node_that_is_up_is_not_removed_and_one_that_left_is(served: Served) -> None:
    await served.say(Role.AGENT, joined(), "gpu01")
    error = await served.error("node.remove", {"node": "gpu01"})
    assert error["code"] == "conflict"
    await served.say(Role.AGENT, NodeLeft(node="gpu01", incarnation="a", upto=1), "gpu01")
    answer = await ask(served.log.nc, "node.remove", {"node": "gpu01", "reason": "sold"})
    assert answer == {"node": "gpu01", "status": "removed", "seq": 3}
    assert (await served.error("node.remove", {"node": "gpu01"}))["code"] == "not_found"


async def test_rule_12_removal_of_a_lost_node_ends_its_attempts(served: Served) -> None:
    epoch = await served.elect()
    await served.say(Role.AGENT, joined(), "gpu01")
    run_id = (await served.submit(CONFIG))["run_id"]
    await served.grant(run_id)
    await served.say(Role.DISPATCHER, NodeLost(node="gpu01", incarnation="a", epoch=epoch, silent_s=15.0))
    assert (await ask(served.log.nc, "node.remove", {"node": "gpu01"}))["status"] == "removed"
    assert (await served.submit(CONFIG))["status"] == "FAILED"


async def test_rule_12_a_node_that_joined_again_before_the_removal_was_stored_is_not_removed(
    served: Served,
) -> None:
    """The gateway decides on what it has folded; the guard on node_joined decides the race."""
    await served.say(Role.AGENT, joined(), "gpu01")
    await served.say(Role.AGENT, NodeLeft(node="gpu01", incarnation="a", upto=1), "gpu01")
    real = served.service._log.append

    async def join_first(event: Any, guard: Any = None) -> Any:
        await say(served.log, Role.AGENT, joined(), "gpu01")
        return await real(event, guard)

    served.service._log.append = join_first  # type: ignore[method-assign]
    answer = await ask(served.log.nc, "node.remove", {"node": "gpu01"})
    assert answer["error"]["code"] == "conflict"
    assert await served.events(NodeRemoved) == []


async def test_rule_2_a_removal_whose_answer_was_lost_is_settled_by_its_id(served: Served) -> None:
    """Stored, not answered, and the node joins again: the repeat meets its guard, but the word was said."""
    await served.say(Role.AGENT, joined(), "gpu01")
    await served.say(Role.AGENT, NodeLeft(node="gpu01", incarnation="a", upto=1), "gpu01")
    real = served.service._log.append
    tried = 0

    async def lose_the_answer(event: Any, guard: Any = None) -> Any:
        nonlocal tried
        tried += 1
        if tried == 1:
            await real(event, guard)
            await say(served.log, Role.AGENT, joined(), "gpu01")
        return await real(event, guard)  # a conflict now, though ours is stored

    served.service._log.append = lose_the_answer  # type: ignore[method-assign]
    answer = await ask(served.log.nc, "node.remove", {"node": "gpu01"})
    assert (answer["status"], answer["seq"]) == ("removed", 3)
    assert len(await served.events(NodeRemoved)) == 1


@pytest.mark.parametrize("call", ["node.drain", "node.resume", "node.remove"])
async def test_a_node_that_is_not_known_is_not_found(served: Served, call: str) -> None:
    assert (await served.error(call, {"node": "gpu09"}))["code"] == "not_found"
    assert (await served.error(call, {}))["path"] == "node"


# --- who asks, and the service ------------------------------------------------------------------------------


async def test_who_asks_is_what_the_server_vouches_for_and_nothing_in_the_message(served: Served) -> None:
    request = json.dumps(CONFIG).encode()
    answer = await served.log.nc.request(
        "trainshed.api.u.P_ann.run.submit", request, timeout=5, headers={"Submitted-By": "root"}
    )
    run_id = json.loads(answer.data)["run_id"]
    await served.log.nc.request(
        "trainshed.api.u.P_bob.run.cancel", json.dumps({"run_id": run_id}).encode(), timeout=5
    )
    events = [one.event for one in await everything(served.log)]
    assert isinstance(events[0], Submitted) and events[0].submitted_by == "ann"
    assert isinstance(events[1], CancelRequested) and events[1].requested_by == "bob"


async def test_it_is_found_by_nats_micro(served: Served) -> None:
    answer = json.loads((await served.log.nc.request("$SRV.INFO.gateway", b"", timeout=5)).data)
    served_at = {endpoint["subject"] for endpoint in answer["endpoints"]}
    for call in (
        "run.submit",
        "run.submit_batch",
        "run.cancel",
        "run.retry",
        "node.drain",
        "node.resume",
        "node.remove",
    ):
        assert {f"trainshed.api.{call}", f"trainshed.api.u.*.{call}"} <= served_at


async def test_a_slow_request_holds_up_nobody(served: Served) -> None:
    real = served.service._log.append
    release = asyncio.Event()

    async def slow_for_one(event: Any, guard: Any = None) -> Any:
        if b"slow" in event.body:
            await release.wait()
        return await real(event, guard)

    served.service._log.append = slow_for_one  # type: ignore[method-assign]
    slow = asyncio.create_task(served.submit({**CONFIG, "submission_key": "slow"}))
    await asyncio.wait_for(served.submit(CONFIG), 5)
    assert not slow.done()
    release.set()
    assert (await asyncio.wait_for(slow, 5))["created"] is True


async def test_what_is_under_way_when_it_stops_is_answered(nats_server: NatsServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        _, service = await stack.enter_async_context(gateway(nats_server))
        client = await nats_server.client()
        entered, release = asyncio.Event(), asyncio.Event()
        real = service._log.append

        async def slow(event: Any, guard: Any = None) -> Any:
            entered.set()
            await release.wait()
            return await real(event, guard)

        service._log.append = slow  # type: ignore[method-assign]
        asking = asyncio.create_task(ask(client, "run.submit", CONFIG))
        await asyncio.wait_for(entered.wait(), 5)
        service.stop()
        release.set()
        assert (await asyncio.wait_for(asking, 5))["created"] is True


async def test_a_server_that_is_killed_meanwhile_delays_an_answer_and_loses_none(
    served: Served, nats_server: NatsServer
) -> None:
    client = await nats_server.client()

    async def submit_until_answered(config: dict[str, Any]) -> Any:
        while True:
            try:
                return await ask(client, "run.submit", config, timeout=3)
            except Exception:  # noqa: BLE001  # no answer: a client asks again
                await asyncio.sleep(0.05)

    configs = sweep(*range(30))
    asking = [asyncio.create_task(submit_until_answered(config)) for config in configs]
    await eventually(lambda: any(task.done() for task in asking))
    await kill_and_start_again(nats_server)
    answers = await asyncio.wait_for(asyncio.gather(*asking), 60)
    stored = {one.subject.id for one in await served.events(Submitted)}
    assert stored == {answer["run_id"] for answer in answers}
    assert len(await served.events(Submitted)) == 30


def _gateway_event(event: Event) -> Any:
    return writer(Role.GATEWAY).new(event)


def _run_id_of(config: dict[str, Any]) -> str:
    return digest_of(run_config(config)).run_id
