"""Who gets in to the compose stack: containers of agents, people on the host, and nobody else; what a worker there can read."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.stack import ComposeStack
from tests.support.stack import clean_environment, run_trainshed, until
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import TrainshedError
from trainshed_client.loopback import refuse_open

pytestmark = pytest.mark.timeout(300)
PEEKS = """
for file in /etc/trainshed/join/token /var/lib/trainshed/credentials/agent.pem /var/lib/trainshed/node.json /proc/1/environ; do
    cat "$file" >/dev/null 2>&1 && echo "read $file"
done
ls /var/lib/trainshed /etc/trainshed/join 2>/dev/null
kill -0 1 2>/dev/null && echo "may end the agent"
env | grep -c -e JOIN_FILE -e CREDENTIALS
grep -e '^Uid' -e '^CapEff' -e '^CapPrm' -e '^NoNewPrivs' /proc/self/status
touch "$HOME/kept" "$TRAINSHED_RUN_DIR/kept" && echo wrote
trainshed ls >/dev/null 2>&1 && echo asked
"""


def keys(stack: ComposeStack) -> dict[str, list[str]]:
    """The keys that count, of each node on the roster."""
    roster = json.loads(stack.inside("enrol", "cat", "/var/lib/trainshed/cluster/roster.json"))
    return {one["name"]: [cert["key"] for cert in one.get("certificates", ())] for one in roster["nodes"]}


def test_two_agents_are_two_nodes_with_an_account_and_a_key_each(stack: ComposeStack) -> None:
    stack.up("--no-recreate", "--scale", "agent=2")
    until(lambda: list(stack.nodes().values()) == ["up"] * 2, 20.0, what="two nodes")
    names = {stack.node(agent) for agent in stack.containers("agent")}
    assert len(names) == 2
    of = keys(stack)
    assert names == of.keys()
    assert sorted(map(len, of.values())) == [1, 1]
    assert len({key for own in of.values() for key in own}) == 2
    realm = stack.inside("nats", "cat", "/etc/trainshed/server/realm.conf")
    assert all(realm.count(f'"NODE_{name}": {{') == 1 for name in names)
    pems = {
        agent.exec_run(["cat", "/var/lib/trainshed/credentials/agent.pem"]).output
        for agent in stack.containers("agent")
    }
    assert len(pems) == 2


def test_a_worker_is_another_user_and_reads_neither_token_nor_key(stack: ComposeStack) -> None:
    run = stack.submit(PEEKS)
    assert stack.ended(run)[0]["status"] == "COMPLETED"
    assert stack.trainshed("logs", run).lines == [
        "0",
        "Uid:\t10002\t10002\t10002\t10002",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "wrote",
        "asked",
    ]


def test_a_node_that_was_removed_does_not_come_back_by_its_key_nor_by_the_token(stack: ComposeStack) -> None:
    stack.up("--no-recreate", "--scale", "agent=2")
    leaving = stack.containers("agent")[-1]
    name = stack.node(leaving)
    until(lambda: stack.nodes().get(name) == "up", 20.0, what=f"{name} is up")
    leaving.kill()
    until(lambda: stack.nodes()[name] == "lost", 40.0, what=f"{name} is lost")
    stack.trainshed("node", "remove", name)
    until(lambda: keys(stack)[name] == [], 10.0, what=f"{name} is revoked")
    leaving.start()
    refused = "after the handshake: it was revoked"
    until(
        lambda: refused in leaving.logs(tail=40).decode(), 30.0, what=f"it is refused\n{stack.logs('agent')}"
    )
    code, _ = leaving.exec_run(["rm", "-r", "/var/lib/trainshed/credentials"])
    assert code == 0
    leaving.restart(timeout=1)
    revoked = "was revoked, and this token takes new names alone"
    until(
        lambda: revoked in leaving.logs(tail=40).decode(),
        30.0,
        what=f"it joins no more\n{stack.logs('agent')}",
    )
    assert stack.nodes().get(name) != "up"


@pytest.fixture(autouse=True)
def one_agent(stack: ComposeStack) -> Iterator[None]:
    """Each test finds one container of an agent, however the one before ended."""
    yield
    for more in stack.containers("agent")[1:]:
        more.remove(force=True, v=True)


def test_the_token_of_agents_lets_no_person_in(stack: ComposeStack, tmp_path: Path) -> None:
    token = stack.inside("agent", "cat", "/etc/trainshed/join/token").strip()
    outside = token.replace("@enrol:", "@127.0.0.1:")
    assert outside != token
    refused = run_trainshed("login", outside, environment=clean_environment(tmp_path), code=None)
    assert "this token is for a node, not for a user" in refused.stderr


def test_without_tls_nobody_hears_a_word_of_the_server(stack: ComposeStack) -> None:
    plain_url = f"nats://127.0.0.1:{stack.port}"
    environment = {**clean_environment(Path("/nonexistent")), "NATS_URL": plain_url}
    refused = run_trainshed("ls", environment=environment, code=3)
    assert f"no Trainshed answers at {plain_url}" in refused.stderr
    assert f"tls://127.0.0.1:{stack.port}, with its authority named in TRAINSHED_NATS_CA" in refused.stderr
    with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as plain:
        plain.sendall(b"CONNECT {}\r\nPING\r\n")
        assert b"INFO" not in plain.recv(4096)
    with pytest.raises(TrainshedError, match="without TLS"):
        refuse_open(Endpoint("nats://nats:4222"))
    words = ("env", "-u", "TRAINSHED_CREDENTIALS", "trainshed", "--nats", "nats://nats:4222", "ls")
    for service in ("gateway", "agent"):
        _, plainly = stack.container(service).exec_run(list(words))
        assert b"nats is not this machine, and nats:// is without TLS" in plainly


def test_without_a_certificate_nobody_gets_in(stack: ComposeStack) -> None:
    known = stack.endpoint
    assert known.ca is not None
    environment = {
        **clean_environment(Path("/nonexistent")),
        "NATS_URL": known.url,
        "TRAINSHED_NATS_CA": known.ca,
    }
    assert "asks for a certificate" in run_trainshed("ls", environment=environment, code=None).stderr


def test_who_is_let_in_counts_at_once_and_no_more_once_he_is_revoked(
    stack: ComposeStack, tmp_path: Path
) -> None:
    environment = clean_environment(tmp_path)
    run_trainshed("login", stack.token("vic", "viewer"), environment=environment)
    assert run_trainshed("nodes", environment=environment).code == 0
    stack.inside("enrol", "trainshed", "user", "revoke", "vic")
    assert (
        "after the handshake: it was revoked"
        in run_trainshed("nodes", environment=environment, code=None).stderr
    )


def test_the_command_line_in_the_image_is_the_person_local(stack: ComposeStack) -> None:
    assert stack.node(stack.container("agent")) in stack.inside("gateway", "trainshed", "nodes")
    typed = stack.inside("gateway", "trainshed", "submit", "--gpus", "1", "--", "/bin/sh", "-c", "true")
    run = re.findall(r"^[a-z2-7]{26}\b", typed, re.MULTILINE)[0]
    assert stack.ended(run)[0]["status"] == "COMPLETED", "its working folder is that of who typed it"
    assert stack.record(run)["submitted_by"] == "local"
    assert run[:6] in stack.inside("gateway", "trainshed", "ls")


def test_no_service_finds_the_key_of_another(stack: ComposeStack) -> None:
    for service in ("nats", "gateway", "dispatcher", "projector", "agent"):
        found = set(
            stack.inside(
                service,
                "sh",
                "-c",
                "find / -xdev -name '*.pem' -path '/etc/trainshed/*' 2>/dev/null; cd /etc/trainshed && find . -name '*.pem'",
            ).split()
        )
        own = {
            "nats": {"./server/server.pem"},
            "agent": set(),
            "gateway": {"./gateway/gateway.pem", "./user/user.pem"},
        }
        assert {one for one in found if one.startswith(".")} == own.get(
            service, {f"./{service}/{service}.pem"}
        ), service
        assert "authority.pem" not in stack.inside(
            service, "sh", "-c", "find /var/lib /etc/trainshed 2>/dev/null || true"
        )


def test_a_log_of_the_time_of_the_password_is_kept(stack: ComposeStack) -> None:
    stack.ended(stack.submit("true"))
    events = [(event["sequence"], event["id"]) for event in stack.events()]
    stack.compose("stop", "nats")
    move = r'cd /store/jetstream && mv TRAINSHED "\$G" && ls'
    words = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "init", "-c", move)
    assert stack.compose(*words).split() == [b"$G"]
    stack.compose("start", "nats")
    stack.healthy()
    assert [(event["sequence"], event["id"]) for event in stack.events()][: len(events)] == events
    assert stack.ended(stack.submit("true"))[0]["status"] == "COMPLETED"
    stack.holds()
