"""Settings: their defaults, their checks and the words of a refusal; durations and node names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.main import run
from services.durations import parse_duration
from services.setting_values import NODE_NAME, Listen, UserMap
from services.settings import (
    LogFormat,
    LogLevel,
    Settings,
    check_node_name,
    default_node_name,
    markdown_table,
    unknown_settings,
)
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.rendering.ago import ago
from trainshed_client.rendering.durations import FAR_S, format_duration


def test_with_nothing_set_every_default_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/sam")
    assert Settings.read({}) == Settings(
        state_dir=Path("/home/sam/.local/state/trainshed"),
        runs_dir=Path("/home/sam/.local/state/trainshed/runs"),
    )
    settings = Settings.read({})
    assert (settings.replicas, settings.heartbeat_timeout_s, settings.node_lost_s) == (1, 300, 15)
    assert (settings.min_free_mb, settings.allow_credentials) == (1024, False)
    assert (settings.log_format, settings.log_level) == (LogFormat.AUTO, LogLevel.INFO)
    assert settings.var_logs_dir is None


def test_every_variable_is_read() -> None:
    given = {
        "TRAINSHED_STATE_DIR": "/s",
        "TRAINSHED_RUNS_DIR": "/r",
        "TRAINSHED_NODE": "gpu-01",
        "TRAINSHED_NATS_URL": "nats://a:1,nats://b:2",
        "TRAINSHED_NATS_USER": "sam",
        "TRAINSHED_NATS_PASSWORD": "hush",
        "TRAINSHED_NATS_CA": "/t/ca.pem",
        "TRAINSHED_NATS_CERT": "/t/cert.pem",
        "TRAINSHED_NATS_KEY": "/t/key.pem",
        "TRAINSHED_CREDENTIALS": "/t/agent.json",
        "TRAINSHED_JOIN_FILE": "/t/token",
        "TRAINSHED_NATS_MONITOR_URL": "http://a:8222/",
        "TRAINSHED_REPLICAS": "3",
        "TRAINSHED_HEARTBEAT_TIMEOUT_S": "5m",
        "TRAINSHED_NODE_LOST_S": "7.5",
        "TRAINSHED_MIN_FREE_MB": "0",
        "TRAINSHED_ALLOW_CREDENTIALS": "1",
        "TRAINSHED_AVOID_BUSY_GPUS": "1",
        "TRAINSHED_HTTP_LISTEN": "8080",
        "TRAINSHED_WORKER_ENV": "HF_HOME, WANDB_*",
        "TRAINSHED_WORKER_USERS": "sam=sam, *=nobody",
        "TRAINSHED_NO_NEW_PRIVS": "0",
        "TRAINSHED_LOG_FORMAT": "JSON",
        "TRAINSHED_LOG_LEVEL": "Debug",
        "VAR_LOGS_DIR": "/l",
    }
    assert Settings.read(given) == Settings(
        state_dir=Path("/s"),
        runs_dir=Path("/r"),
        node="gpu-01",
        nats_url="nats://a:1,nats://b:2",
        nats_user="sam",
        nats_password="hush",
        nats_ca=Path("/t/ca.pem"),
        nats_cert=Path("/t/cert.pem"),
        nats_key=Path("/t/key.pem"),
        credentials=Path("/t/agent.json"),
        join_file=Path("/t/token"),
        nats_monitor_url="http://a:8222",
        replicas=3,
        heartbeat_timeout_s=300,
        node_lost_s=7.5,
        min_free_mb=0,
        allow_credentials=True,
        avoid_busy_gpus=True,
        http_listen=Listen("127.0.0.1", 8080),
        worker_env="HF_HOME,WANDB_*",
        worker_users=UserMap((("sam", "sam"), ("*", "nobody"))),
        no_new_privs=False,
        log_format=LogFormat.JSON,
        log_level=LogLevel.DEBUG,
        var_logs_dir=Path("/l"),
    )
    table = markdown_table()
    assert [name for name in given if f"`{name}`" not in table] == []
    assert table.count("\n") == len(given) + 1
    assert unknown_settings(given) == {}


def test_an_empty_variable_is_not_set() -> None:
    assert Settings.read(
        dict.fromkeys(["TRAINSHED_NODE", "TRAINSHED_REPLICAS", "NATS_URL"], "")
    ) == Settings.read({})


def test_runs_live_in_the_state_folder_unless_said_otherwise() -> None:
    assert Settings.read({"TRAINSHED_STATE_DIR": "/s"}).runs_dir == Path("/s/runs")


def test_nats_url_is_second_to_our_own_variable() -> None:
    assert Settings.read({"NATS_URL": "nats://a"}).nats_url == "nats://a"
    assert Settings.read({"NATS_URL": "nats://a", "TRAINSHED_NATS_URL": "nats://b"}).nats_url == "nats://b"


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("TRAINSHED_NODE", "GPU01", "1 to 63 of a-z, 0-9 and -"),
        ("TRAINSHED_NODE", "a.b", "1 to 63 of a-z, 0-9 and -"),
        ("TRAINSHED_NODE", "a" * 64, "1 to 63 of a-z, 0-9 and -"),
        ("TRAINSHED_NODE", "a\n", "1 to 63 of a-z, 0-9 and -"),
        ("TRAINSHED_NATS_URL", "http://x", "nats://HOST:PORT"),
        ("NATS_URL", "nats://x:y", "nats://HOST:PORT"),
        ("TRAINSHED_REPLICAS", "2", "1 or 3"),
        ("TRAINSHED_REPLICAS", "three", "1 or 3"),
        ("TRAINSHED_HEARTBEAT_TIMEOUT_S", "0", "at least 1 second"),
        ("TRAINSHED_HEARTBEAT_TIMEOUT_S", "soon", "at least 1 second: seconds (3600)"),
        ("TRAINSHED_NODE_LOST_S", "-1", "at least 1 second"),
        ("TRAINSHED_NATS_MONITOR_URL", "https://a:8222", "http://HOST:PORT"),
        ("TRAINSHED_NATS_MONITOR_URL", "http://a:8222/jsz", "http://HOST:PORT"),
        ("TRAINSHED_MIN_FREE_MB", "1.5", "a whole number of MiB, 0 or more"),
        ("TRAINSHED_MIN_FREE_MB", "٣", "a whole number of MiB, 0 or more"),
        ("TRAINSHED_ALLOW_CREDENTIALS", "maybe", "1 or 0"),
        ("TRAINSHED_HTTP_LISTEN", "65536", "PORT or HOST:PORT"),
        ("TRAINSHED_HTTP_LISTEN", ":8080", "PORT or HOST:PORT"),
        ("TRAINSHED_HTTP_LISTEN", "localhost", "PORT or HOST:PORT"),
        ("TRAINSHED_LOG_FORMAT", "xml", "auto, console, json"),
        ("TRAINSHED_LOG_LEVEL", "loud", "debug, info, warning, error"),
    ],
)
def test_a_bad_value_is_refused_with_variable_value_and_what_is_accepted(
    variable: str, value: str, accepted: str
) -> None:
    with pytest.raises(TrainshedError) as refused:
        Settings.read({variable: value})
    assert refused.value.code is ErrorCode.INVALID
    assert refused.value.message.startswith(f"{variable} is {value!r}; accepted: {accepted}")


@pytest.mark.parametrize(
    ("text", "listen", "shown"),
    [
        ("8080", Listen("127.0.0.1", 8080), "127.0.0.1:8080"),
        ("0.0.0.0:80", Listen("0.0.0.0", 80), "0.0.0.0:80"),
        ("[::]:80", Listen("::", 80), "[::]:80"),
    ],
)
def test_an_address_to_serve_on_reads_back_as_it_is_shown(text: str, listen: Listen, shown: str) -> None:
    assert Settings.read({"TRAINSHED_HTTP_LISTEN": text}).http_listen == listen
    assert Settings.read({"TRAINSHED_HTTP_LISTEN": shown}).http_listen == listen
    assert str(listen) == shown


def test_a_secret_may_be_a_file_and_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hush\n")
    settings = Settings.read({"TRAINSHED_NATS_PASSWORD_FILE": str(file)})
    assert settings.nats_password == "hush"
    assert "hush" not in repr(settings)
    with pytest.raises(TrainshedError) as refused:
        Settings.read({"TRAINSHED_NATS_URL": "http://sam:hush@x"})
    assert "hush" not in str(refused.value)
    with pytest.raises(TrainshedError, match="are both set") as refused:
        Settings.read({"TRAINSHED_NATS_PASSWORD_FILE": str(file), "TRAINSHED_NATS_PASSWORD": "hush"})
    assert "hush" not in str(refused.value)
    with pytest.raises(
        TrainshedError, match="TRAINSHED_NATS_PASSWORD_FILE names /none, which cannot be read"
    ):
        Settings.read({"TRAINSHED_NATS_PASSWORD_FILE": "/none"})


def test_a_misspelt_setting_is_found_with_what_was_meant() -> None:
    environ = {
        "TRAINSHED_HEARTBEAT_TIMEOUT": "5",
        "TRAINSHED_ZZZ": "1",
        "TRAINSHED_RUN_ID": "x",
        "PATH": "/bin",
    }
    assert unknown_settings(environ) == {
        "TRAINSHED_HEARTBEAT_TIMEOUT": "TRAINSHED_HEARTBEAT_TIMEOUT_S",
        "TRAINSHED_ZZZ": None,
    }


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3600", 3600),
        ("0", 0),
        ("0.5", 0.5),
        ("300s", 300),
        ("90m", 5400),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2d", 172800),
        ("1w2d", 777600),
        ("1-02:00:00", 93600),
        ("02:00:30", 7230),
        ("100:00:00", 360000),
        (" 5m ", 300),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "-1",
        "1e3",
        "inf",
        "nan",
        "30m1h",
        "5 m",
        "10:30",
        "1:60:00",
        "5M",
        "1h30",
        "٣",
        "9" * 400,
        "9" * 5000,
    ]
    + [f"{'9' * 5000}:00:00", f"{'9' * 5000}-00:00:00"],
)
def test_what_is_no_duration_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(TrainshedError, match=r"--timeout is .*; write seconds \(3600\), units") as refused:
        parse_duration(text, given_by="--timeout")
    assert refused.value.code is ErrorCode.INVALID


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0, "0s"),
        (0.42, "0.4s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m"),
        (300, "5m"),
        (3599.6, "1h"),
        (5400, "1h30m"),
        (86399, "1d"),
        (90000, "1d1h"),
        (8640000, "100d"),
        (3153599998, "over 10 years"),
        (float("inf"), "over 10 years"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, FAR_S, exclude_max=True))
def test_a_shown_duration_is_read_back_to_within_its_smaller_unit(seconds: float) -> None:
    back = parse_duration(format_duration(seconds))
    assert abs(back - seconds) <= (
        0.051 if seconds < 9 else 0.5 if seconds < 3600 else 30 if seconds < 86000 else 1801
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "just now"),
        (0.5, "just now"),
        (12.9, "12 s ago"),
        (200, "3 min ago"),
        (7300, "2 h ago"),
        (5e5, "5 d ago"),
    ],
)
def test_how_long_ago_is_told_in_one_unit(seconds: float, text: str) -> None:
    assert ago(seconds) == text


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("gpu01", "gpu01"),
        ("GPU01.lab.example", "gpu01"),
        ("my_box", "my-box"),
        ("-x-", "x"),
        ("", "node"),
        ("…", "node"),
        ("a" * 70, "a" * 63),
    ],
)
def test_a_nodes_default_name_is_the_hosts_first_label_cleaned(hostname: str, name: str) -> None:
    assert default_node_name(hostname) == name


@given(st.text())
def test_every_host_gives_a_name_that_is_accepted(hostname: str) -> None:
    name = default_node_name(hostname)
    assert NODE_NAME.fullmatch(name)
    assert check_node_name(name) == name


def test_a_bad_node_name_is_refused_by_its_option() -> None:
    with pytest.raises(TrainshedError, match="--node is 'Gpu'; a node's name is 1 to 63 of a-z, 0-9 and -"):
        check_node_name("Gpu")


@pytest.mark.parametrize("words", ["up", "agent", "service install"])
@pytest.mark.parametrize(
    ("option", "value"),
    [("--heartbeat-timeout", "nonsense"), ("--heartbeat-timeout", "0"), ("--node", "A b")],
)
def test_a_bad_value_of_what_a_node_has_names_its_option(
    words: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words.split(), option, value]) == 2
    assert f"Error: {option} is {value!r}; " in capsys.readouterr().err
