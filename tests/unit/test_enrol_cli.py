"""The verbs of enrolment on a state folder: what they print, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.access.identities import NodeIdentity, Person, PersonRole
from services.cli.main import run as trainshed
from services.cli.members import lines
from services.cli.table import PLAIN
from services.enrol.cluster import new_token
from services.enrol.roster import EnrolledPerson, IssuedCertificate
from services.enrol.roster_file import read_roster
from services.enrol.tokens import ForAnyNode, ForNode, ForPerson, parse_line
from trainshed_client.errors import ExitCode

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRAINSHED_STATE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def made(state_dir: Path, capsys: Captured) -> Path:
    init = (
        "cluster",
        "init",
        "--host",
        "c.lab",
        "--host",
        "10.0.0.1",
        "--node",
        "gpu00",
        "--enrol-port",
        "1",
    )
    assert trainshed(init) == ExitCode.OK
    assert "for c.lab, 10.0.0.1" in capsys.readouterr().out
    return state_dir


def test_without_a_cluster_each_verb_names_the_first_step(state_dir: Path, capsys: Captured) -> None:
    for given in (
        ("node", "add", "gpu01"),
        ("user", "add", "sam", "--role", "viewer"),
        ("node", "list"),
        ("user", "revoke", "sam"),
        ("cluster", "rotate"),
    ):
        assert trainshed(given) != ExitCode.OK
        assert "Make one: trainshed cluster init" in capsys.readouterr().err
    assert list(state_dir.iterdir()) == []


def test_init_enrols_this_machine_and_is_done_once(made: Path, capsys: Captured) -> None:
    roster = read_roster(made / "cluster")
    assert roster.find(NodeIdentity("gpu00")) and roster.find(Person("local", PersonRole.ADMIN))
    assert len(roster.control) == 5
    assert trainshed(("cluster", "init")) == ExitCode.BAD_INPUT
    assert "is there already" in capsys.readouterr().err


def test_node_add_prints_one_line_and_keeps_no_secret(made: Path, capsys: Captured) -> None:
    assert trainshed(("node", "add", "gpu01")) == ExitCode.OK
    printed = capsys.readouterr()
    [line] = printed.out.splitlines()
    parsed = parse_line(line, given_by="test")
    assert (parsed.host, parsed.port) == ("c.lab", 1)
    assert f"On gpu01, within 15 minutes: trainshed agent --join {line}" in printed.err
    [token] = read_roster(made / "cluster").tokens
    assert token.whom == ForNode("gpu01")
    assert token.expires_at - token.made_at == timedelta(minutes=15)
    assert line.split("-")[1] not in (made / "cluster/roster.json").read_text()


def test_a_token_for_one_who_is_enrolled(made: Path, capsys: Captured) -> None:
    assert trainshed(("node", "add", "gpu00")) == ExitCode.OK
    assert "gpu00 is enrolled already: who takes this token takes its place" in capsys.readouterr().err


def test_a_token_as_json(made: Path, capsys: Captured) -> None:
    assert trainshed(("user", "add", "sam", "--role", "viewer", "--rate", "3", "--json")) == ExitCode.OK
    given = json.loads(capsys.readouterr().out)
    assert given["command"] == f"trainshed login {given['token']}"
    assert datetime.fromisoformat(given["expires_at"]) > datetime.now(UTC)
    [token] = read_roster(made / "cluster").tokens
    assert token.whom == ForPerson(name="sam", role=PersonRole.VIEWER, rate=3)


def test_a_reusable_token(made: Path, capsys: Captured) -> None:
    assert trainshed(("node", "add", "--reusable", "--valid", "30d")) == ExitCode.OK
    [token] = read_roster(made / "cluster").tokens
    assert token.whom == ForAnyNode()
    assert token.expires_at - token.made_at == timedelta(days=30)
    for wrong in (("node", "add"), ("node", "add", "a", "--reusable"), ("node", "rotate")):
        assert trainshed(wrong) == ExitCode.BAD_INPUT


def test_names_that_can_be_none(made: Path, capsys: Captured) -> None:
    for wrong in (("node", "add", "../x"), ("user", "add", "Sam", "--role", "viewer")):
        assert trainshed(wrong) == ExitCode.BAD_INPUT
        assert "cannot name a" in capsys.readouterr().err
    assert read_roster(made / "cluster").tokens == ()


def test_revoke_and_list(made: Path, capsys: Captured) -> None:
    assert trainshed(("node", "add", "gpu01")) == ExitCode.OK
    assert trainshed(("node", "revoke", "gpu00")) == ExitCode.OK
    printed = capsys.readouterr()
    assert "node gpu00 is revoked" in printed.out
    assert "the server does not know it yet" in printed.err
    assert trainshed(("node", "list")) == ExitCode.OK
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert rows == [["NODE", "STATE"], ["gpu00", "revoked"], ["gpu01", "invited"]]
    assert trainshed(("node", "list", "--json")) == ExitCode.OK
    listed = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["state"]) for one in listed["members"]] == [("gpu00", "revoked")]
    assert [one["name"] for one in listed["invited"]] == ["gpu01"]
    assert trainshed(("user", "revoke", "sam")) == ExitCode.NO_SUCH_RUN
    assert "user sam is not enrolled. Who is: trainshed user list" in capsys.readouterr().err


def test_rotate(made: Path, capsys: Captured) -> None:
    assert trainshed(("node", "rotate", "gpu00")) == ExitCode.OK
    roster = read_roster(made / "cluster")
    assert [one.renew_asked_at is not None for one in (*roster.nodes, *roster.people)] == [True, False]
    assert trainshed(("user", "rotate", "--all")) == ExitCode.OK
    assert all(one.renew_asked_at for one in read_roster(made / "cluster").everybody())
    assert trainshed(("cluster", "rotate")) == ExitCode.OK
    capsys.readouterr()
    assert trainshed(("cluster", "rotate", "--finish")) == ExitCode.BAD_INPUT
    assert "7 have no certificate of the younger authority yet" in capsys.readouterr().err


def test_what_the_list_shows_of_people() -> None:
    def sam(name: str, life: timedelta) -> EnrolledPerson:
        issued = IssuedCertificate(serial="1", key="k", issued_at=NOW, not_after=NOW + life, authority="a")
        return EnrolledPerson(
            name=name, role=PersonRole.SUBMITTER, rate=5, enrolled_at=NOW, certificates=(issued,)
        )

    people = [sam("ann", timedelta(days=80)), sam("bob", timedelta(days=3)), sam("eve", timedelta())]
    invited: list[dict[str, object]] = [{"name": "sam", "role": "viewer", "expires_at": NOW}]
    assert lines("user", people, invited, NOW, PLAIN) == [
        "USER  STATE         EXPIRES                 ENROLLED          ROLE       RATE  QUEUED  MACHINES",
        "ann   enrolled      2027-02-18              2026-11-30 09:00  submitter     5       -         1",
        "bob   expires soon  2026-12-03              2026-11-30 09:00  submitter     5       -         1",
        "eve   expired       2026-11-30              2026-11-30 09:00  submitter     5       -         0",
        "sam   invited       token 2026-11-30 09:00  -                 viewer        -       -         -",
    ]


def test_a_folder_of_a_stack_is_not_logged_in_from(made: Path, capsys: Captured) -> None:
    line = new_token(made, ForPerson(name="sam", role=PersonRole.ADMIN), bytes(20), now=NOW)
    assert trainshed(("login", str(line))) == ExitCode.BAD_INPUT
    assert "is the folder of a stack on this machine" in capsys.readouterr().err


def test_what_is_no_token(state_dir: Path, capsys: Captured) -> None:
    (state_dir / "empty").write_text("\n")
    for given in (("login", "x"), ("agent", "--join", "x"), ("agent", "--join", f"@{state_dir}/empty")):
        assert trainshed(given) == ExitCode.BAD_INPUT
        assert "accepted is TOKEN@HOST:PORT" in capsys.readouterr().err
    assert trainshed(("agent", "--join", f"@{state_dir}/missing")) == ExitCode.BAD_INPUT
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("given", [("--help",), ("node", "--help"), ("login", "--help"), ("agent", "--help")])
def test_no_help_loads_cryptography(given: tuple[str, ...]) -> None:
    code = (
        "import sys; from services.cli.main import run\n"
        f"code = run({given!r})\n"
        "assert 'cryptography' not in sys.modules\n"
        "sys.exit(code)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
