"""Where the commands look for the stack, in which order, and what they say when there is none."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from trainshed_client.endpoint import (
    Endpoint,
    default_state_dir,
    discover,
    parse_url,
    read_credentials,
    read_endpoint,
    worker_socket,
    write_credentials,
    write_endpoint,
)
from trainshed_client.errors import ErrorCode, TrainshedError

STORED = Endpoint("nats://127.0.0.1:4333", "trainshed", "stored")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nats://host:4223", Endpoint("nats://host:4223")),
        ("host", Endpoint("nats://host:4222")),
        ("host:99", Endpoint("nats://host:99")),
        ("tls://a.example", Endpoint("tls://a.example:4222")),
        ("nats://[::1]:4223/", Endpoint("nats://[::1]:4223")),
        ("nats://sam:p%40ss@host", Endpoint("nats://host:4222", "sam", "p@ss")),
        ("nats://token@host", Endpoint("nats://host:4222", "token")),
        ("nats://a:1, b:2", Endpoint("nats://a:1,nats://b:2")),
    ],
)
def test_a_url_is_read_and_its_credentials_are_taken_out(text: str, expected: Endpoint) -> None:
    assert parse_url(text, given_by="--nats") == expected


@pytest.mark.parametrize(
    "text", ["http://host", "nats://", "", "nats://host:port", "nats://h:99999", "nats://h/x", "a,,b"]
)
def test_what_is_no_nats_url_is_refused_by_what_gave_it(text: str) -> None:
    with pytest.raises(
        TrainshedError, match="NATS_URL is .*, which is no NATS URL; write nats://HOST:PORT"
    ) as refused:
        parse_url(text, given_by="NATS_URL")
    assert refused.value.code is ErrorCode.INVALID


def test_no_password_is_in_an_error_or_in_a_text_form() -> None:
    with pytest.raises(TrainshedError) as refused:
        parse_url("http://sam:hush@host", given_by="--nats")
    assert "hush" not in str(refused.value)
    assert "hush" not in f"{Endpoint('nats://h:1', 'sam', 'hush')} {Endpoint('nats://h:1', 'sam', 'hush')!r}"


def test_a_workers_socket_is_used_where_nothing_names_a_stack() -> None:
    env = {"TRAINSHED_SOCKET": "/s/w.sock", "HOME": "/home/me"}
    assert worker_socket(environ=env) == "/s/w.sock"
    assert worker_socket("nats://one:1", environ=env) is None
    for name in ("TRAINSHED_NATS_URL", "NATS_URL", "TRAINSHED_CREDENTIALS", "TRAINSHED_STATE_DIR"):
        assert worker_socket(environ={**env, name: "/elsewhere"}) is None
    assert worker_socket(environ={"HOME": "/home/me"}) is None
    assert worker_socket(environ={"TRAINSHED_SOCKET": ""}) is None


def test_the_option_goes_before_the_environment_before_the_state_folder(tmp_path: Path) -> None:
    write_endpoint(tmp_path, STORED)
    env = {"TRAINSHED_STATE_DIR": str(tmp_path)}
    assert discover(environ=env) == STORED
    env["NATS_URL"] = "nats://one:1"
    assert discover(environ=env) == Endpoint("nats://one:1")
    env["TRAINSHED_NATS_URL"] = "nats://two:2"
    assert discover(environ=env) == Endpoint("nats://two:2")
    assert discover("nats://three:3", environ=env) == Endpoint("nats://three:3")


def test_credentials_of_the_environment_go_with_a_url_but_never_with_the_local_stack(tmp_path: Path) -> None:
    write_endpoint(tmp_path, STORED)
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    env = {"TRAINSHED_NATS_USER": "sam", "TRAINSHED_NATS_PASSWORD_FILE": str(secret)}
    assert discover("nats://h", environ=env) == Endpoint("nats://h:4222", "sam", "from a file")
    assert discover("nats://ada:x@h", environ=env) == Endpoint("nats://h:4222", "ada", "x")
    assert discover(environ=env, state_dir=tmp_path) == STORED


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    env = {"TRAINSHED_NATS_PASSWORD_FILE": str(tmp_path / "none")}
    with pytest.raises(
        TrainshedError, match="TRAINSHED_NATS_PASSWORD_FILE names .*none, which cannot be read"
    ):
        discover("nats://h", environ=env)


ENROLLED = Endpoint(
    "tls://hub:4222", None, None, "/t/ca.pem", "/t/sam.pem", "/t/sam.key", inbox_prefix="_INBOX_sam"
)


def test_certificates_of_the_environment_go_with_a_url_and_are_absolute_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = {
        "TRAINSHED_NATS_CA": "ca.pem",
        "TRAINSHED_NATS_CERT": "/t/cert.pem",
        "TRAINSHED_NATS_KEY": "/t/key.pem",
    }
    given = discover("tls://h", environ=env)
    assert given == Endpoint("tls://h:4222", None, None, f"{tmp_path}/ca.pem", "/t/cert.pem", "/t/key.pem")
    write_endpoint(tmp_path, STORED)
    assert discover(environ=env, state_dir=tmp_path) == STORED
    del env["TRAINSHED_NATS_KEY"]
    with pytest.raises(TrainshedError, match="give both, TRAINSHED_NATS_CERT and TRAINSHED_NATS_KEY"):
        discover("tls://h", environ=env)


def test_a_credentials_file_is_whole_and_gives_way_to_a_url_in_its_address_alone(tmp_path: Path) -> None:
    write_endpoint(tmp_path, STORED)
    file = tmp_path / "credentials" / "sam.json"
    write_credentials(file, ENROLLED)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    env = {"TRAINSHED_STATE_DIR": str(tmp_path), "TRAINSHED_CREDENTIALS": str(file)}
    assert discover(environ=env) == ENROLLED == read_credentials(file, given_by="it")
    env |= {
        "TRAINSHED_NATS_USER": "ada",
        "TRAINSHED_NATS_PASSWORD": "x",
        "TRAINSHED_NATS_CA": "/t/another.pem",
    }
    assert discover(environ=env) == ENROLLED
    for url in ("tls://other:9", "tls://ada:x@other:9"):
        assert discover(url, environ=env) == msgspec.structs.replace(ENROLLED, url="tls://other:9")
        assert discover(environ={**env, "NATS_URL": url}).url == "tls://other:9"


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (None, r"which cannot be read \(no such file or directory\)"),
        ("{", "which is not of endpoint.json's shape"),
        ('{"url": "tls://h", "ca": "ca.pem"}', "ca is 'ca.pem'; it must be an absolute path"),
        ('{"url": "tls://h", "cert": "/c"}', "a certificate is of use with its key alone"),
        ('{"url": "nats://h", "ca": "/c"}', "nats://h:4222 is without TLS.* write tls://h:4222"),
        ('{"url": "nats://a,tls://b"}', "mixes nats:// and tls://; write tls:// for each server"),
        ('{"url": "tls://h", "inbox_prefix": "_INBOX.>"}', "inbox_prefix is '_INBOX.>'; accepted: a-z"),
    ],
)
def test_a_credentials_file_that_is_none_is_named_with_its_setting(
    tmp_path: Path, content: str | None, wrong: str
) -> None:
    file = tmp_path / "sam.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(TrainshedError, match=f"TRAINSHED_CREDENTIALS names {file}.*{wrong}") as refused:
        discover(environ={"TRAINSHED_CREDENTIALS": str(file)})
    assert refused.value.code is ErrorCode.INVALID


def test_the_file_leaves_out_what_is_not_used_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = write_endpoint(tmp_path / "new" / "folder", Endpoint("nats://127.0.0.1:4222"))
    assert json.loads(path.read_bytes()) == {"v": 1, "url": "nats://127.0.0.1:4222"}
    write_endpoint(path.parent, STORED)
    assert json.loads(path.read_bytes()) == {
        "v": 1,
        "url": "nats://127.0.0.1:4333",
        "user": "trainshed",
        "password": "stored",
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["endpoint.json"]


def test_a_newer_releases_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "endpoint.json").write_text('{"v": 2, "url": "nats://h:1", "nkey": "x"}')
    assert read_endpoint(tmp_path) == Endpoint("nats://h:1")


def test_no_stack_is_said_with_the_file_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(TrainshedError) as refused:
        discover(environ={"TRAINSHED_STATE_DIR": str(tmp_path)})
    assert str(refused.value) == (
        f"No stack is running here ({tmp_path}/endpoint.json is missing). Start one: trainshed up"
    )
    assert refused.value.exit_code == 3


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"url": 1}',
        '{"v": 1}',
        '{"url": "http://x"}',
        '{"url": "h:99999"}',
        '{"url": "\\ud800"}',
    ],
)
def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "endpoint.json").write_text(content)
    with pytest.raises(TrainshedError, match=r"endpoint.json is damaged .* `trainshed up` writes it anew"):
        read_endpoint(tmp_path)


def test_a_file_that_cannot_be_read_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "endpoint.json").mkdir()
    with pytest.raises(TrainshedError, match=r"endpoint.json cannot be read \(is a directory\)"):
        read_endpoint(tmp_path)


def test_the_state_folder_is_the_chosen_one_else_the_xdg_one() -> None:
    assert default_state_dir({"TRAINSHED_STATE_DIR": "/a/b", "XDG_STATE_HOME": "/x"}) == Path("/a/b")
    assert default_state_dir({"XDG_STATE_HOME": "/x"}) == Path("/x/trainshed")
    assert default_state_dir({"XDG_STATE_HOME": "relative"}) == Path.home() / ".local/state/trainshed"
    assert default_state_dir({}) == Path.home() / ".local/state/trainshed"
    assert default_state_dir({"TRAINSHED_STATE_DIR": "here"}) == Path.cwd() / "here"


def test_finding_the_stack_imports_neither_nats_nor_ssl() -> None:
    program = (
        "import sys, trainshed_client.endpoint; sys.exit(bool({'nats', 'asyncio', 'ssl'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-P", "-c", program], check=False).returncode == 0
