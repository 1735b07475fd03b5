"""Two machines for real, each with an address of its own: they work, are cut off, come back, are put out and displaced.

The tests go on from each other's site; each leaves gpu01 and gpu02 enrolled and up.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.enrol.authority import read_certificates
from tests.integration.cluster.lan import Machine
from tests.integration.cluster.site import Agent, Site, listening_site, on_machine
from tests.support.stack import alive, clean_environment, until

CUT_WITHIN_S = 2.0
"""Whoever is revoked is cut off this soon."""
FIRST_RUN_WITHIN_S = 60.0
"""From the line that is typed on a machine to the end of a short run there."""
REFUSED = "after the handshake: it was revoked, or a newer one took its place"
"""What an agent logs whose key counts no more."""


class Pair:
    """A site with two further machines, gpu01 and gpu02, each with two GPUs."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.stack = site.stack
        self.machines = {name: site.lan.machine() for name in ("gpu01", "gpu02")}
        self.lines: dict[str, str] = {}
        self.agents: dict[str, Agent] = {}

    def join(self, name: str) -> None:
        self.lines[name] = self.site.token(name)
        self.agents[name] = self.site.agent(self.machines[name], name)
        self.agents[name].start("--join", self.lines[name])

    def running_on(self, node: str, *options: str, shell: str = "sleep 300") -> tuple[str, int]:
        """A run that runs there, and a process of it. The other node has no room meanwhile: it is drained."""
        others = [name for name in self.machines if name != node]
        for other in others:
            self.stack.trainshed("drain", other)
        run = self.stack.submit("--gpus", "1", *options, shell=shell)
        until(lambda: self.stack.record(run)["status"] == "RUNNING", 20.0, what=f"{run} runs")
        for other in others:
            self.stack.trainshed("resume", other)
        record = self.stack.record(run)
        assert record["node"] == node, record
        return run, until(lambda: self.stack.workers().get(run, [0])[0], what=f"a process of {run}")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with listening_site(tmp_path_factory.mktemp("site")) as site:
        yield Pair(site)


def test_the_first_run_on_a_machine_that_has_joined(pair: Pair) -> None:
    typed_at = time.monotonic()
    pair.join("gpu01")
    pair.site.until_status("gpu01", "up")
    run = pair.stack.submit("--gpus", "1", shell="ip -o -4 addr show dev eth0")
    (record,) = pair.stack.wait(run, timeout="60s")
    took_s = time.monotonic() - typed_at
    print(f"from the line that was typed to the end of the first run: {took_s:.1f} s")
    assert took_s < FIRST_RUN_WITHIN_S
    assert (record["status"], record["node"]) == ("COMPLETED", "gpu01")
    pair.join("gpu02")
    pair.site.until_status("gpu02", "up")
    assert f"inet {pair.machines['gpu01'].address}/24" in pair.stack.trainshed("logs", run).text


def test_a_sweep_over_both(pair: Pair) -> None:
    answer = pair.stack.trainshed(
        *(
            "submit",
            "--count",
            "20",
            "--gpus",
            "1",
            "--name",
            "sweep",
            "--",
            "/bin/sh",
            "-c",
            "sleep 0.2; echo done",
        )
    )
    runs = [line.split()[0] for line in answer.lines]
    assert len(set(runs)) == 20
    records = pair.stack.wait(*runs, timeout="60s")
    assert {record["status"] for record in records} == {"COMPLETED"}
    nodes = [record["node"] for record in records]
    assert {"gpu01", "gpu02"} == set(nodes), nodes
    for run in runs:
        assert pair.stack.trainshed("logs", run).text == "done\n", (
            "its output is read from the machine that ran it"
        )


def test_somebody_on_another_machine_than_the_run(pair: Pair, tmp_path: Path) -> None:
    """A person who logged in on gpu02 follows and cancels what runs on gpu01."""
    there, home = pair.machines["gpu02"], clean_environment(tmp_path / "sam")
    line = pair.site.person_token("sam", "submitter")
    assert "logged in as sam (submitter)" in on_machine(there, "login", line, environment=home).text
    run = on_machine(
        there, "submit", "--gpus", "1", "--", "/bin/sh", "-c", "echo begun; sleep 300", environment=home
    )
    name = run.text.split()[0]
    until(lambda: "begun" in on_machine(there, "logs", name, environment=home).text, 20.0)
    on_machine(there, "cancel", name, environment=home)
    (record,) = pair.stack.wait(name, code=None)
    assert (record["status"], record["submitted_by"]) == ("CANCELLED", "sam")


def test_one_is_cut_off_and_comes_back(pair: Pair) -> None:
    """What ran there goes on and ends in the log once the cable is back; what is queued meanwhile runs on the other."""
    run, pid = pair.running_on("gpu01", shell="sleep 6; echo survived")
    pair.machines["gpu01"].cut()
    try:
        pair.site.until_status("gpu01", "lost")
        other = pair.stack.submit("--gpus", "2", shell="true")
        (record,) = pair.stack.wait(other)
        assert record["node"] == "gpu02"
        assert pair.stack.record(run)["status"] == "RUNNING", "nobody knows what became of it"
        until(lambda: not alive(pid), 20.0, what="it ends while its machine is cut off")
        assert pair.stack.record(run)["status"] == "RUNNING"
    finally:
        pair.machines["gpu01"].mend()
    pair.site.until_status("gpu01", "up", within=60.0)
    (record,) = pair.stack.wait(run)
    assert (record["status"], record["node"], record["attempt"]) == ("COMPLETED", "gpu01", 1)
    assert pair.stack.trainshed("logs", run).text == "survived\n"


def test_one_is_cut_off_and_its_run_is_placed_elsewhere(pair: Pair) -> None:
    """`node remove`, an operator's word, frees what it held: the run is tried on the other. Back again, it ends its own worker."""
    run, pid = pair.running_on(
        *("gpu01", "--retries", "1", "--retry-on", "node_lost", "--backoff", "1s"),
        shell="sleep 20; echo done",
    )
    pair.machines["gpu01"].cut()
    try:
        pair.site.until_status("gpu01", "lost")
        pair.stack.trainshed("node", "remove", "gpu01")
        until(lambda: pair.stack.record(run)["node"] == "gpu02", 20.0, what="it is tried on the other")
        assert alive(pid), "a machine that was only cut off goes on working until it hears of it"
    finally:
        pair.machines["gpu01"].mend()
    pair.site.until_status("gpu01", "up", within=60.0)
    until(lambda: not alive(pid), 30.0, what="the worker of the attempt that was given up is ended")
    (record,) = pair.stack.wait(run, timeout="60s")
    assert (record["status"], record["node"], record["attempt"]) == ("COMPLETED", "gpu02", 2)


def test_an_agent_is_started_again_by_the_line_that_it_joined_by(pair: Pair) -> None:
    agent, before = pair.agents["gpu01"], pair.site.roster
    run, pid = pair.running_on("gpu01")
    agent.end(signal.SIGKILL)
    agent.start("--join", pair.lines["gpu01"])
    pair.site.until_status("gpu01", "up")
    until(lambda: agent.said().count('"ready"') > 1, 20.0)
    assert pair.stack.record(run)["status"] == "RUNNING"
    assert alive(pid)
    assert pair.site.roster.nodes == before.nodes, "nothing was enrolled anew"
    pair.stack.trainshed("cancel", run)
    pair.stack.wait(run, code=None)


def test_an_agent_makes_a_new_key_when_it_is_asked_to(pair: Pair) -> None:
    """It looks at its start, and each half hour; its own connection is made anew by the new key, and its run goes on."""
    agent = pair.agents["gpu01"]
    run, pid = pair.running_on("gpu01")
    before = (agent.state_dir / "credentials/agent.pem").read_bytes()
    pair.stack.trainshed("node", "rotate", "gpu01")
    agent.end()
    agent.start()
    until(lambda: "the certificate was renewed" in agent.said(), 30.0)
    assert (agent.state_dir / "credentials/agent.pem").read_bytes() != before

    def keys() -> int:
        (entry,) = [node for node in pair.site.roster.nodes if node.name == "gpu01"]
        return len(entry.certificates)

    until(lambda: keys() == 1, what="the older key counts no more")
    until(lambda: _connected(pair.site, pair.machines["gpu01"]), what="it is connected by the new one")
    pair.site.until_status("gpu01", "up")
    assert alive(pid)
    pair.stack.trainshed("cancel", run)
    (record,) = pair.stack.wait(run, code=None)
    assert record["status"] == "CANCELLED"


def test_a_token_used_twice_and_one_that_was_stolen(pair: Pair, tmp_path: Path) -> None:
    """It gets nobody in, and displaces nobody: the node that joined by it goes on."""
    run, pid = pair.running_on("gpu01")
    before = pair.site.roster
    thief = pair.site.agent(pair.machines["gpu02"], "thief")
    thief.start("--join", pair.lines["gpu01"])
    assert thief.ended() == 2
    assert "this token was used already" in thief.said()
    assert not (thief.state_dir / "credentials/agent.json").exists()
    thief.start("--join", pair.lines["gpu01"], "--node", "gpu03")
    assert thief.ended() == 2
    home = clean_environment(tmp_path / "thief")
    refused = on_machine(pair.machines["gpu02"], "login", pair.lines["gpu01"], environment=home, code=2)
    assert "token" in refused.stderr
    assert pair.site.roster == before
    assert pair.stack.record(run)["status"] == "RUNNING"
    assert alive(pid)
    assert pair.site.nodes()["gpu01"]["status"] == "up"
    pair.stack.trainshed("cancel", run)
    pair.stack.wait(run, code=None)


def test_the_same_node_joins_from_a_new_folder_and_the_older_one_is_out(pair: Pair) -> None:
    """An operator's new token for a node that is enrolled displaces it: a machine that was set up anew."""
    agent, line = pair.agents["gpu01"], pair.site.token("gpu01")
    older = read_certificates((agent.state_dir / "credentials/agent.pem").read_bytes())[0].serial_number
    copied = pair.site.folder / "copied"
    shutil.copytree(agent.state_dir / "credentials", copied / "credentials")
    credentials = copied / "credentials/agent.json"
    credentials.write_text(credentials.read_text().replace(str(agent.state_dir), str(copied)))
    agent.end()
    agent.start("--join", line)
    pair.lines["gpu01"] = line
    until(lambda: agent.said().count('"ready"') > 3, 20.0)
    pair.site.until_status("gpu01", "up")
    (entry,) = [node for node in pair.site.roster.nodes if node.name == "gpu01"]
    assert f"{older:x}" not in [one.serial for one in entry.certificates]
    run = pair.stack.submit("--gpus", "2", shell="true")
    pair.stack.wait(run)
    stale = pair.site.agent(pair.machines["gpu02"], "copied")
    stale.start()
    until(lambda: REFUSED in stale.said(), 20.0)
    assert '"ready"' not in stale.said(), "whoever has the older key is not let in"
    stale.end()
    assert pair.site.nodes()["gpu01"]["status"] == "up"


def test_one_is_removed_while_it_works(pair: Pair) -> None:
    """`node revoke` cuts it off at once and its run goes on; `node remove` gives the run up; a new token takes it back."""
    run, pid = pair.running_on("gpu01")
    began = time.monotonic()
    pair.stack.trainshed("node", "revoke", "gpu01")
    typed_s = time.monotonic() - began
    until(lambda: not _connected(pair.site, pair.machines["gpu01"]), CUT_WITHIN_S, what="it is cut off")
    print(f"revoked and cut off in {time.monotonic() - began:.2f} s (the command: {typed_s:.2f} s)")
    pair.site.until_status("gpu01", "lost")
    assert alive(pid)
    assert pair.stack.record(run)["status"] == "RUNNING"
    listed = pair.stack.trainshed("node", "list").text
    assert "revoked" in next(line for line in listed.splitlines() if line.startswith("gpu01"))
    pair.stack.trainshed("node", "remove", "gpu01")
    (record,) = pair.stack.wait(run, code=None)
    assert (record["status"], record["failure_reason"]) == ("FAILED", "node_lost")
    assert alive(pid), "nobody reaches it there"
    agent = pair.agents["gpu01"]
    agent.end()
    agent.start("--join", pair.lines["gpu01"])
    until(lambda: REFUSED in agent.said(), 20.0)
    agent.end()
    pair.lines["gpu01"] = pair.site.token("gpu01")
    agent.start("--join", pair.lines["gpu01"])
    pair.site.until_status("gpu01", "up")
    until(lambda: not alive(pid), 30.0, what="its worker is ended, for its run is")


def _connected(site: Site, machine: Machine) -> bool:
    """Whether the kernel of this machine has a connection of that one to the server."""
    local, far = f"{site.lan.address}:{site.port}", machine.address
    established = os.popen("ss -Htn state established").read()
    return any(
        words[2].endswith(local) and words[3].startswith(f"{far}:")
        for words in map(str.split, established.splitlines())
    )
