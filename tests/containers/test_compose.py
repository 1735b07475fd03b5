"""The compose stack at work: a run's life from the host, kills of every container, more nodes, an upgrade."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.containers.stack import SERVICES, ComposeStack, series
from tests.support.stack import until
from tests.support.stopped_watcher import flood, stopped_watcher
from trainshed_client.nats_client import connect

pytestmark = pytest.mark.timeout(300)
PATIENT = {"retry": {"max_attempts": 5, "backoff_s": 0}}
RIGHTS = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"]
TAR = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "tar", "init")
ASKS_MONITORING = "import os, urllib.request as u; print(u.urlopen(os.environ['TRAINSHED_NATS_MONITOR_URL'] + '/varz').status)"
UNTIL_TOLD = 'until [ -e "$TRAINSHED_RUN_DIR/go" ]; do sleep 0.1; done; echo done'


def test_the_command_line_on_the_host_submits_and_follows_a_run(stack: ComposeStack) -> None:
    run = stack.submit("echo to stdout; echo to stderr >&2; exit 3")
    (record,) = stack.ended(run)
    assert (record["status"], record["exit_code"]) == ("FAILED", 3)
    assert sorted(stack.trainshed("logs", "-f", run).lines) == ["to stderr", "to stdout"]


def test_a_run_is_cancelled_and_a_silent_one_is_timed_out(stack: ComposeStack) -> None:
    long = stack.submit("sleep 600")
    stack.running(long)
    stack.trainshed("cancel", long)
    silent = stack.submit("sleep 600", heartbeat={"source": "notify", "timeout_s": 1})
    records = {record["run_id"]: record for record in stack.ended(long, silent)}
    assert records[long]["status"] == "CANCELLED"
    assert (records[silent]["status"], records[silent]["failure_reason"]) == ("FAILED", "worker_timeout")


def test_every_container_is_confined(stack: ComposeStack) -> None:
    for service in SERVICES:
        container = stack.container(service)
        host = container.attrs["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert sorted(host["CapAdd"] or ()) == (RIGHTS if service == "agent" else []), service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["Memory"] > 0 and host["PidsLimit"] > 0, service
        assert host["RestartPolicy"]["Name"] == "unless-stopped", service
        published = [port for ports in (host["PortBindings"] or {}).values() for port in ports or ()]
        assert all(port["HostIp"] == "127.0.0.1" for port in published), service
        uid = "0" if service == "agent" else "10001"  # whose workers are another's (test_members.py)
        assert stack.inside(service, "sh", "-c", "grep Uid /proc/1/status").split()[1:] == [uid] * 4, service


def test_every_service_shows_its_health_and_its_metrics(stack: ComposeStack) -> None:
    stack.ended(stack.submit("true"))
    for service in SERVICES[1:]:
        assert stack.get(service, "/healthz").strip() == "ok"
        assert stack.get(service, "/readyz").strip() == "ready"
        page = dict(series(stack.get(service, "/metrics")))
        assert page[f'trainshed_build_info{{service="{service}",version="0.1.0"}}'] == 1
        assert page["trainshed_nats_connected"] == 1
    projector = dict(series(stack.get("projector", "/metrics")))
    assert projector['trainshed_runs{status="COMPLETED"}'] >= 1
    assert projector["trainshed_slots"] == 1
    assert projector['trainshed_nodes{status="up"}'] == 1
    dispatcher = dict(series(stack.get("dispatcher", "/metrics")))
    assert dispatcher["trainshed_dispatcher_active"] == 1
    assert dispatcher["trainshed_dispatch_latency_seconds_count"] >= 1


def test_a_watcher_that_stops_reading_is_named_in_the_projectors_log(stack: ComposeStack) -> None:
    async def run_over() -> None:
        nc = await connect(stack.endpoint, name="flood")
        await flood(nc)
        await nc.close()

    def named() -> list[str]:
        lines = stack.container("projector").logs().decode().splitlines()
        return [line for line in lines if "cut off" in line]

    assert stack.inside("projector", "python3", "-c", ASKS_MONITORING).strip() == "200"
    with stopped_watcher(stack.endpoint, "ada's window"):
        asyncio.run(run_over())
        until(named, 20.0, what=f"the watcher is named\n{stack.logs('projector')}")
    (line,) = named()
    found = re.search(r"ada's window at [\d.]+:\d+, as it read too slowly: ([\d,]+) bytes were pending", line)
    assert found is not None, line
    assert int(found[1].replace(",", "")) > 1 << 20
    server = stack.container("nats").attrs["NetworkSettings"]["Ports"]
    assert [port for port, hosts in server.items() if hosts] == ["4222/tcp"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_killed_in_the_middle_of_runs_loses_nothing(stack: ComposeStack, service: str) -> None:
    done = stack.ended(stack.submit("true"))[0]["run_id"]
    before = [(event["sequence"], event["id"]) for event in stack.events()]
    running = stack.submit(UNTIL_TOLD, **PATIENT)
    stack.running(running)
    queued = stack.submit("echo after", **PATIENT)
    stack.kill(stack.container(service))
    stack.healthy()
    stack.tell(running)
    records = {record["run_id"]: record for record in stack.ended(running, queued)}
    assert {run: record["status"] for run, record in records.items()} == {
        running: "COMPLETED",
        queued: "COMPLETED",
    }
    # only its own agent's death ends a worker
    assert records[running]["attempt"] == (2 if service == "agent" else 1)
    assert stack.record(done)["status"] == "COMPLETED"
    assert [(event["sequence"], event["id"]) for event in stack.events()][: len(before)] == before
    if service == "agent":
        reasons = [
            event["data"].get("failure_reason")
            for event in stack.events()
            if event["data"].get("run_id") == running
        ]
        assert "shim_lost" in reasons
    stack.holds()


def test_a_server_that_is_healthy_no_more_is_started_again(stack: ComposeStack) -> None:
    server = stack.container("nats")
    began = server.attrs["State"]["StartedAt"]
    (_, check) = server.attrs["Config"]["Healthcheck"]["Test"]
    server.exec_run(["sh", "-c", check.replace(":8222/", ":1/")])  # where nothing answers

    def started_again() -> bool:
        server.reload()
        return bool(server.attrs["State"]["StartedAt"] != began)

    until(started_again, 30.0, what="nats is started again")
    stack.healthy()
    assert stack.ended(stack.submit("true"))[0]["status"] == "COMPLETED"


def test_an_upgrade_loses_no_event_and_every_run_reaches_its_end(
    stack: ComposeStack, next_image: str
) -> None:
    patient = stack.submit(UNTIL_TOLD, **PATIENT)
    stack.running(patient)
    queued = stack.submit(UNTIL_TOLD)
    before = [(event["sequence"], event["id"]) for event in stack.events()]
    nodes = set(stack.nodes())
    old = {service: stack.container(service).id for service in SERVICES}
    stack.tag = next_image
    stack.up()
    new = {service: stack.container(service).id for service in SERVICES}
    assert {service for service in SERVICES if old[service] != new[service]} == set(SERVICES) - {"nats"}
    stack.tell(patient, queued)
    records = {record["run_id"]: record for record in stack.ended(patient, queued)}
    assert {record["status"] for record in records.values()} == {"COMPLETED"}
    assert records[patient]["attempt"] == 2
    assert set(stack.nodes()) == nodes  # the same node, though its container is another
    assert [(event["sequence"], event["id"]) for event in stack.events()][: len(before)] == before
    stack.holds()


def test_agents_are_added_and_one_is_removed(stack: ComposeStack) -> None:
    stack.up("--no-recreate", "--scale", "agent=3")
    until(lambda: list(stack.nodes().values()) == ["up"] * 3, 20.0, what="three nodes")
    runs = [stack.submit("sleep 600" if place < 3 else "true", **PATIENT) for place in range(3)]
    stack.running(*runs)
    assert len({stack.record(run)["node"] for run in runs}) == 3
    leaving = stack.node(stack.containers("agent")[-1])
    moved = next(run for run in runs if stack.record(run)["node"] == leaving)
    stack.up("--no-recreate", "--scale", "agent=2")
    until(lambda: leaving not in stack.nodes(), 20.0, what=f"{leaving} has left")
    assert sorted(stack.nodes().values()) == ["up", "up"]
    record = stack.record(moved)
    assert (record["status"], record["attempt"]) == ("PENDING", 2)
    other = next(run for run in runs if run != moved)
    stack.trainshed("cancel", other)
    stack.running(moved)
    stack.trainshed("cancel", *[run for run in runs if run != other])
    stack.ended(*runs)
    stack.holds()


def test_a_backup_brings_everything_back_on_an_empty_machine(stack: ComposeStack) -> None:
    done = stack.ended(stack.submit("echo kept"))[0]
    events = [(event["sequence"], event["id"]) for event in stack.events()]
    authority = stack.inside("enrol", "cat", "/var/lib/trainshed/cluster/ca.crt")
    stack.compose("stop", "nats")
    backup = stack.compose(*TAR, "-C", "/", "-cf", "-", "store", "authority")
    stack.down()
    stack.compose(*TAR, "-C", "/", "-xf", "-", stdin=backup)
    stack.up()
    assert stack.inside("enrol", "cat", "/var/lib/trainshed/cluster/ca.crt") == authority
    assert [(event["sequence"], event["id"]) for event in stack.events()][: len(events)] == events
    assert stack.record(done["run_id"])["status"] == "COMPLETED"
    new = stack.node(stack.container("agent"))
    gone = [node for node in stack.nodes() if node != new]
    until(lambda: all(stack.nodes()[node] == "lost" for node in gone), 40.0, what=f"{gone} are lost")
    for node in gone:
        stack.trainshed("node", "remove", node)
    again = stack.ended(stack.submit("true"))[0]
    assert (again["status"], again["node"]) == ("COMPLETED", new)
    stack.holds()
