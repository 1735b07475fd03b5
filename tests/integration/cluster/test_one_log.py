"""A state folder keeps its log: taken over from the first release, opened to other machines and closed again, killed between,
and with files lost. It never gets a second one."""

from __future__ import annotations

import json
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster.lan import Lan
from tests.integration.cluster.site import free_ports
from tests.support.stack import Stack, alive, run_trainshed, until

RELEASE = Path(__file__).parents[2] / "release_0_1"
STATE_DIR = "/tmp/trainshed-0.1/state"
Made = Callable[..., Stack]


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan() as one:
        yield one


def stores(state_dir: Path) -> Path:
    return state_dir / "nats/jetstream/jetstream"


def log_of(stack: Stack) -> str:
    """The log that the stack has, which its node belongs to."""
    (of_node,) = {json.loads((stack.state_dir / "node.json").read_text())["log_id"]}
    exported = stack.trainshed("audit", "verify", json=True)
    assert exported["ok"] is True, exported
    return str(of_node)


def as_an_older_release_left_it(stack: Stack) -> None:
    """Killed, its store where a server without accounts looks for it, and nothing of accounts beside it."""
    stack.kill()
    until(lambda: not server_alive(stack), what="its server ends")
    (stores(stack.state_dir) / "TRAINSHED").rename(stores(stack.state_dir) / "$G")
    shutil.rmtree(stack.state_dir / "credentials")
    (stack.state_dir / "nats/realm.conf").unlink()


def server_alive(stack: Stack) -> bool:
    return alive(int((stack.state_dir / "nats/server.pid").read_text()))


def refused(stack: Stack, *words: str) -> str:
    """What `up` ends by."""
    done = run_trainshed("up", "--node", "box", *words, environment=stack.environment, code=None)
    assert done.code == 2, done
    return done.stderr


def ended_by_a_kill(stack: Stack, point: str) -> None:
    stack.environment["TRAINSHED_FAILPOINTS"] = f"{point}=kill"
    stack.start(wait=False)
    assert stack.process.wait(20) == -signal.SIGKILL
    del stack.environment["TRAINSHED_FAILPOINTS"]


def test_that_of_the_first_release_killed_between_the_move_of_its_store_and_the_servers_start(
    tmp_path: Path, new_stack: Made
) -> None:
    with tarfile.open(RELEASE / "state.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    for intent in (tmp_path / "state/attempts").glob("*/*/intent.json"):
        intent.write_text(intent.read_text().replace(STATE_DIR, str(tmp_path / "state")))
    before: str = json.loads((tmp_path / "state/node.json").read_text())["log_id"]
    stack = new_stack(gpus=2, cpus=8, start=False)
    assert (stores(stack.state_dir) / "$G").exists()
    ended_by_a_kill(stack, "server.store_given")
    assert not (stores(stack.state_dir) / "$G").exists()
    assert (stores(stack.state_dir) / "TRAINSHED").exists()
    stack.start()
    log = [json.loads(line) for line in (RELEASE / "log.jsonl").read_text().splitlines()]
    ids = [event["id"] for event in stack.events()]
    assert ids[: len(log)] == [json.loads(each["body"])["id"] for each in log]
    assert log_of(stack) == before


def test_runs_that_live_through_the_move_of_an_older_store(new_stack: Made) -> None:
    stack = new_stack()
    run = stack.submit("--gpus", "1", shell="echo begun; sleep 300")
    stack.running(run)
    pid, before, events = stack.workers()[run][0], log_of(stack), stack.events()
    as_an_older_release_left_it(stack)
    ended_by_a_kill(stack, "server.store_given")
    stack.start()
    assert log_of(stack) == before
    assert stack.events()[: len(events)] == events
    assert stack.record(run)["status"] == "RUNNING"
    assert alive(pid)
    stack.trainshed("cancel", run)
    (record,) = stack.wait(run, code=None)
    assert (record["status"], record["attempt"]) == ("CANCELLED", 1)


def test_two_stores_are_refused_and_neither_is_touched(new_stack: Made) -> None:
    stack = new_stack()
    stack.submit("--gpus", "1", shell="true")
    before = log_of(stack)
    stack.stop()
    shutil.copytree(stores(stack.state_dir) / "TRAINSHED", stores(stack.state_dir) / "$G")
    said = refused(stack)
    assert "there are two stores" in said
    assert "Move away the one that it made, then try again: trainshed up" in said
    assert {path.name for path in stores(stack.state_dir).iterdir()} == {"$G", "TRAINSHED"}
    shutil.rmtree(stores(stack.state_dir) / "$G")
    (stores(stack.state_dir) / "$G/streams").mkdir(parents=True)
    stack.start()
    assert log_of(stack) == before, "one that stores nothing is none"


@pytest.mark.parametrize(
    "lost", ["nats/server.json", "nats/server.conf", "nats/realm.conf", "credentials", "endpoint.json"]
)
def test_a_file_that_is_lost_costs_the_log_nothing(new_stack: Made, lost: str) -> None:
    stack = new_stack()
    run = stack.submit("--gpus", "1", shell="sleep 300")
    stack.running(run)
    pid, before = stack.workers()[run][0], log_of(stack)
    stack.stop()
    path = stack.state_dir / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    stack.start()
    assert log_of(stack) == before
    assert stack.record(run)["status"] == "RUNNING"
    assert alive(pid)


def test_a_log_that_is_lost_gets_no_second_one_in_its_place(new_stack: Made, tmp_path: Path) -> None:
    stack = new_stack()
    run = stack.submit("--gpus", "1", shell="true")
    stack.wait(run)
    before = log_of(stack)
    stack.stop()
    (stack.state_dir / "nats/jetstream").rename(tmp_path / "backup")
    for _ in range(2):
        said = refused(stack)
        assert (
            f"the event log {before} is not in the server's store, and no other is made in its place" in said
        )
        assert f"Bring {stack.state_dir}/nats/jetstream back from a backup" in said
    # the backup may be one of an older release, and the server has left an empty folder
    shutil.copytree(tmp_path / "backup/jetstream/TRAINSHED", stores(stack.state_dir) / "$G")
    stack.start()
    assert log_of(stack) == before
    assert stack.record(run)["status"] == "COMPLETED"


def test_alone_then_listening_then_alone_again(new_stack: Made, lan: Lan) -> None:
    """The log, what runs, and the node stay; a start that was killed in the middle of it is gone on with."""
    stack = new_stack()
    run = stack.submit("--gpus", "1", shell="sleep 300")
    stack.running(run)
    pid, before, events = stack.workers()[run][0], log_of(stack), stack.events()

    def same() -> None:
        assert log_of(stack) == before
        assert stack.events()[: len(events)] == events
        record = stack.record(run)
        assert (record["status"], record["node"], record["attempt"]) == ("RUNNING", "box", 1)
        assert alive(pid)
        assert [node["node"] for node in stack.trainshed("nodes", json=True)["nodes"]] == ["box"]

    def url() -> str:
        return str(json.loads((stack.state_dir / "endpoint.json").read_text())["url"])

    port, enrol_port = free_ports(lan.address)
    ports = ("--port", str(port), "--enrol-port", str(enrol_port))
    stack.trainshed("cluster", "init", "--host", lan.address, *ports)
    same()  # it runs on as it was
    stack.stop()
    stack.start("--listen", lan.address)
    assert url() == f"tls://{lan.address}:{port}"
    same()
    stack.stop()
    stack.start()
    assert url() == f"tls://{lan.address}:{port}", "where it listens is kept"
    same()
    stack.kill()
    until(lambda: not server_alive(stack), what="its server ends")
    ended_by_a_kill(stack, "server.store_given")
    stack.start("--listen", "none")
    assert url().startswith("nats://127.0.0.1:")
    same()
    stack.stop()
    stack.start()
    assert url().startswith("nats://127.0.0.1:"), "and so is that it does not"
    same()


def test_a_listening_stack_whose_credentials_are_lost_makes_them_anew(new_stack: Made, lan: Lan) -> None:
    stack = new_stack(start=False)
    port, enrol_port = free_ports(lan.address)
    ports = ("--port", str(port), "--enrol-port", str(enrol_port))
    stack.trainshed("cluster", "init", "--host", lan.address, "--node", "box", *ports)
    stack.start("--listen", lan.address)
    before: Any = log_of(stack)
    stack.stop()
    shutil.rmtree(stack.state_dir / "credentials")
    (stack.state_dir / "nats/server.json").unlink()
    stack.start()
    assert log_of(stack) == before
