"""What whoever sets it up types, and what he reads where it cannot be."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from services.enrol.roster import Roster
from services.enrol.roster_file import change
from tests.integration.cluster.site import Site, free_ports, listening_site, on_machine
from tests.support.stack import clean_environment, run_trainshed, until


def test_up_listen_without_a_cluster_names_the_command(tmp_path: Path) -> None:
    environment = clean_environment(tmp_path / "state")
    done = run_trainshed("up", "--gpus", "0", "--listen", "127.0.0.1", environment=environment, code=4)
    assert "Make one: trainshed cluster init" in done.stderr
    assert not (tmp_path / "state/nats").exists()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("203.0.113.7", "'203.0.113.7' is no address of this machine (cannot assign requested address)"),
        ("control.lab", "'control.lab' is no IP address"),
        ("10.0.0.1:4222", "'10.0.0.1:4222' is no IP address"),
        ("", "'' is no IP address"),
    ],
)
def test_an_address_that_cannot_be_listened_at_is_named_and_not_kept(
    tmp_path: Path, address: str, why: str
) -> None:
    environment = clean_environment(tmp_path / "state")
    run_trainshed("cluster", "init", "--host", "control.lab", environment=environment)
    before = (tmp_path / "state/cluster/cluster.json").read_bytes()
    done = run_trainshed("up", "--gpus", "0", "--listen", address, environment=environment, code=2)
    assert why in done.stderr
    assert "0.0.0.0 for all of them" in done.stderr
    assert (tmp_path / "state/cluster/cluster.json").read_bytes() == before


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, metrics_port: int) -> Iterator[Site]:
    with listening_site(
        tmp_path_factory.mktemp("site"), TRAINSHED_HTTP_LISTEN=f"127.0.0.1:{metrics_port}"
    ) as one:
        yield one


@pytest.fixture(scope="module")
def metrics_port() -> int:
    """Of `up`; the projector's is the next."""
    return free_ports("127.0.0.1")[0]


def test_the_metrics_have_when_each_certificate_expires(site: Site, metrics_port: int) -> None:
    def page() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port + 1}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    until(lambda: "trainshed_certificate_expires_seconds{" in page(), what="the roster was read")
    found = re.findall(r'trainshed_certificate_expires_seconds\{user="([^"]*)"\} ([0-9.e+]+)', page())
    names = dict(found)
    assert {"control.node.trainshed", "local.user.trainshed", "gateway.ctl.trainshed"} <= set(names)
    assert 89 * 86400 < float(names["control.node.trainshed"]) <= 90 * 86400


def test_nodes_names_a_certificate_that_is_near_its_end(site: Site) -> None:
    """One whose roster entry is set so: that of this machine's own node, which is renewed within a minute."""
    end = datetime.now(UTC) + timedelta(days=3)

    def ends_soon(roster: Roster) -> tuple[Roster, None]:
        (node,) = roster.nodes
        short = tuple(msgspec.structs.replace(one, not_after=end) for one in node.certificates)
        return msgspec.structs.replace(
            roster, nodes=(msgspec.structs.replace(node, certificates=short),)
        ), None

    change(site.stack.state_dir / "cluster", ends_soon)
    told = site.stack.trainshed("nodes").stderr
    assert f"control's certificate expires on {end:%Y-%m-%d} and was not renewed" in told


def test_up_prints_how_others_join(site: Site) -> None:
    lines = site.stack.said().splitlines()
    (line,) = [line for line in lines if line.startswith("Others join at ")]
    assert line == (
        f"Others join at {site.lan.address}:{site.port}: a machine by  trainshed node add NODE,  a person by  trainshed user add "
        "NAME --role submitter"
    )


def test_each_role_reads_why_it_may_not(site: Site, tmp_path: Path) -> None:
    machine = site.lan.machine()
    homes = {}
    for name, role in (("vic", "viewer"), ("sam", "submitter"), ("ada", "admin")):
        homes[name] = clean_environment(tmp_path / name)
        on_machine(machine, "login", site.person_token(name, role), environment=homes[name])
        on_machine(machine, "ls", environment=homes[name])
    submit = ("submit", "--no-check", "--", "/bin/true")
    denied = on_machine(machine, *submit, environment=homes["vic"], code=None)
    assert denied.code == 2, denied
    assert denied.stderr.startswith(
        "Error: vic is a viewer here, who reads and changes nothing; run.submit takes the role submitter. On the control side's "
        "machine: trainshed user add vic --role submitter"
    )
    run = on_machine(machine, *submit, environment=homes["sam"]).text.split()[0]
    assert "vic is a viewer" in on_machine(machine, "cancel", run, environment=homes["vic"], code=None).stderr
    denied = on_machine(machine, "drain", "control", environment=homes["sam"], code=None)
    assert denied.stderr.startswith(
        "Error: sam is a submitter here, who submits, and ends his own runs; node.drain takes the role admin"
    )
    on_machine(machine, "drain", "control", environment=homes["ada"])
    on_machine(machine, "resume", "control", environment=homes["ada"])
