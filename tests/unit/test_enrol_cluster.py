"""The cluster folder: made once, its certificates made anew when due, members of this machine, replacing the authority."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.access.identities import Control, ControlRole, NodeIdentity, Person, PersonRole
from services.enrol import cluster
from services.enrol.authority import SERVER_LIFE, hosts_of, read_authorities, read_certificates
from services.enrol.cluster import (
    begin_rotation,
    default_hosts,
    end_rotation,
    initialise,
    local_members,
    needed_cluster,
    new_token,
    provide,
    read_cluster,
    server_certificate,
)
from services.enrol.keys import key_fingerprint, read_key
from services.enrol.roster import revoked
from services.enrol.roster_file import change, read_roster, state
from services.enrol.tokens import ForNode
from trainshed_client.errors import ErrorCode, TrainshedError

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)
DAY = timedelta(days=1)
GATEWAY = {"gateway": Control(ControlRole.GATEWAY)}


def key_in(path: Path) -> str:
    return key_fingerprint(read_key(path.read_bytes()).public_key())


def gateway_keys(state_dir: Path, now: datetime) -> list[str]:
    entry = read_roster(state_dir / "cluster").find(GATEWAY["gateway"])
    assert entry is not None
    return entry.keys(now)


def test_a_cluster_is_made_once(tmp_path: Path) -> None:
    assert read_cluster(tmp_path) is None
    with pytest.raises(TrainshedError, match="trainshed cluster init"):
        needed_cluster(tmp_path)
    made = initialise(tmp_path, ["10.0.0.1", "control.lab", "10.0.0.1"], now=NOW)
    assert made == read_cluster(tmp_path) == needed_cluster(tmp_path)
    assert made.hosts == ("10.0.0.1", "control.lab")
    assert made.url == "tls://10.0.0.1:4222"
    leaf = read_certificates((tmp_path / "cluster/server.pem").read_bytes())[0]
    assert hosts_of(leaf) == ["10.0.0.1", "control.lab", "localhost", "127.0.0.1", "::1"]
    before = {file.name: file.read_bytes() for file in (tmp_path / "cluster").iterdir()}
    with pytest.raises(TrainshedError, match="is there already") as raised:
        initialise(tmp_path, ["other"], now=NOW)
    assert raised.value.code is ErrorCode.CONFLICT
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "cluster").iterdir()}
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "cluster").iterdir()} == {0o600}
    assert (tmp_path / "cluster").stat().st_mode & 0o777 == 0o700


def test_what_is_no_host_makes_nothing(tmp_path: Path) -> None:
    for hosts in (["../"], ["a b"], ["*"]):
        with pytest.raises(TrainshedError, match="no host"):
            initialise(tmp_path, hosts, now=NOW)
    assert not (tmp_path / "cluster").exists()


def test_a_try_that_was_killed_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "server_certificate", killed)
        with pytest.raises(KeyboardInterrupt):
            initialise(tmp_path, ["c"], now=NOW)
    first = read_authorities(tmp_path / "cluster").for_servers.fingerprint
    initialise(tmp_path, ["c"], now=NOW)
    assert read_authorities(tmp_path / "cluster").for_servers.fingerprint == first


def test_the_hosts_of_this_machine_can_be_hosts(tmp_path: Path) -> None:
    assert initialise(tmp_path, default_hosts(), now=NOW).hosts


def test_the_servers_certificate_is_made_anew_when_it_is_due_and_not_before(tmp_path: Path) -> None:
    hosts = ["c", "fd00:0::1"]
    initialise(tmp_path, hosts, now=NOW)
    folder = tmp_path / "cluster"
    path = server_certificate(folder, hosts, now=NOW)
    first = path.read_bytes()
    sum_before = state(folder)
    for now in (NOW, NOW + SERVER_LIFE * 0.6):
        assert server_certificate(folder, hosts, now=now).read_bytes() == first
    assert state(folder) == sum_before
    assert server_certificate(folder, hosts, now=NOW + SERVER_LIFE * 0.7).read_bytes() != first
    assert state(folder) != sum_before, "the server must load it"
    path.write_bytes(b"torn")
    assert read_certificates(server_certificate(folder, hosts, now=NOW).read_bytes())


def test_members_of_this_machine_have_keys_without_a_token(tmp_path: Path) -> None:
    initialise(tmp_path, ["c"], now=NOW)
    members = local_members("gpu00")
    assert members["agent"] == NodeIdentity("gpu00")
    assert members["user"] == Person("local", PersonRole.ADMIN)
    paths = provide(tmp_path, members, now=NOW)
    roster = read_roster(tmp_path / "cluster")
    assert roster.pinned_keys(NOW) == sorted(key_in(path) for path in paths.values())
    assert {path.stat().st_mode & 0o777 for path in paths.values()} == {0o600}
    assert provide(tmp_path, members, now=NOW + 59 * DAY) == paths
    assert read_roster(tmp_path / "cluster") == roster, "what is young enough stays"


def test_a_members_new_key_counts_beside_the_one_that_it_is_connected_by(tmp_path: Path) -> None:
    initialise(tmp_path, ["c"], now=NOW)
    path = provide(tmp_path, GATEWAY, now=NOW)["gateway"]
    first, later = key_in(path), NOW + 61 * DAY
    provide(tmp_path, GATEWAY, now=later)
    assert gateway_keys(tmp_path, later) == [first, key_in(path)]
    provide(tmp_path, GATEWAY, now=NOW + 500 * DAY)
    assert gateway_keys(tmp_path, NOW + 500 * DAY) == [key_in(path)]


def test_a_member_whose_file_is_lost_gets_another_and_one_who_was_revoked_does_not(tmp_path: Path) -> None:
    initialise(tmp_path, ["c"], now=NOW)
    path = provide(tmp_path, GATEWAY, now=NOW)["gateway"]
    path.unlink()
    provide(tmp_path, GATEWAY, now=NOW)
    assert key_in(path) in gateway_keys(tmp_path, NOW)
    change(tmp_path / "cluster", lambda roster: (revoked(roster, GATEWAY["gateway"], now=NOW), None))
    provide(tmp_path, GATEWAY, now=NOW)
    assert gateway_keys(tmp_path, NOW) == []


def test_a_token_pins_the_authority_that_signs_the_listener(tmp_path: Path) -> None:
    with pytest.raises(TrainshedError, match="trainshed cluster init"):
        new_token(tmp_path, ForNode("gpu01"), bytes(20), now=NOW)
    initialise(tmp_path, ["c", "d"], now=NOW, enrol_port=5000)
    line = new_token(tmp_path, ForNode("gpu01"), bytes(20), now=NOW)
    authorities = read_authorities(tmp_path / "cluster")
    assert (line.host, line.port, line.authority) == ("c", 5000, authorities.for_servers.fingerprint)
    begin_rotation(tmp_path, now=NOW)
    assert new_token(tmp_path, ForNode("gpu01"), bytes(20), now=NOW).authority == line.authority


def test_an_authority_is_replaced_once_nobody_would_be_cut_off(tmp_path: Path) -> None:
    initialise(tmp_path, ["c"], now=NOW)
    folder = tmp_path / "cluster"
    provide(tmp_path, GATEWAY, now=NOW)
    with pytest.raises(TrainshedError, match="no certificate authority is being replaced"):
        end_rotation(tmp_path, now=NOW)
    begin_rotation(tmp_path, now=NOW)
    with pytest.raises(TrainshedError, match="being replaced already"):
        begin_rotation(tmp_path, now=NOW)
    with pytest.raises(TrainshedError, match=r"1 have no certificate .* cut off: the gateway"):
        end_rotation(tmp_path, now=NOW)
    provide(tmp_path, GATEWAY, now=NOW)
    end_rotation(tmp_path, now=NOW)
    [left] = read_authorities(folder).trusted
    leaf, issuer = read_certificates((folder / "server.pem").read_bytes())
    assert issuer == left.certificate
    leaf.verify_directly_issued_by(issuer)
    assert re.fullmatch(r"[0-9a-f]{64}", left.fingerprint)
