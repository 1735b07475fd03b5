"""An accepted run config: its defaults, its normal form, its digest and what is read off it."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import config_input
from events.canonical import digest_of_json
from events.config import RETRY_ON, Needs, RunConfig, stored_config
from events.config_input import parse_json
from tests.support.configs import digest_of, run_config
from trainshed_client.errors import ErrorCode, TrainshedError

# What an existing trainer GUI sends.
GUI = b"""{"run_name": "ppo-1", "entry_point": "/usr/bin/python3", "arguments": ["-m", "my_worker.cli"],
"environment": {}, "resources": {"cpus": 2, "memory_mb": 2048, "gpus": {"requested": 0, "mandatory": false}},
"artifacts": {"output_prefix": "runs/ppo-1", "persist_logs": true, "keep_checkpoints": false},
"schedule": {"max_duration_seconds": 3600}, "metadata": {"ui": {"algo": "ppo"}, "worker": {"worker_id": "w1",
"module": "my_worker.cli", "arguments": ["--seed", "1"],
"config": {"run_id": "x", "env_id": "CartPole-v1", "extras": {}}}}}"""
GUI_WORKER = {
    "worker_id": "w1",
    "module": "my_worker.cli",
    "arguments": ["--seed", "1"],
    "config": {"run_id": "x", "env_id": "CartPole-v1", "extras": {}},
}
RUN = "a" * 25 + "7"

# Every default of the design's table, spelled out. A default, once released, never changes.
DEFAULTS: dict[str, Any] = {
    "run_name": "train.py",
    "entry_point": "/srv/train.py",
    "arguments": [],
    "environment": {},
    "labels": {},
    "metadata": {},
    "working_dir": None,
    "resources": {"cpus": 1, "memory_mb": 0, "gpus": {"requested": 0, "mandatory": True, "whole": False}},
    "artifacts": {"output_prefix": "", "persist_logs": True, "keep_checkpoints": True},
    "schedule": {"max_duration_seconds": None, "max_steps": None},
    "priority": 0,
    "retry": {
        "max_attempts": 1,
        "backoff_s": 10,
        "on": [
            "exit_code", "signal", "worker_timeout", "spawn_error", "shim_lost", "node_lost",
            "node_reclaimed",
        ],
    },
    "stop": {"signal": "SIGTERM", "grace_s": 5},
    "heartbeat": {"source": "process", "timeout_s": None},
    "after": [],
    "secrets": {},
    "submission_key": None,
    "code": None,
}  # fmt: skip
# A value for each field that is not its default.
OTHER: dict[str, Any] = {
    "run_name": "ppo",
    "entry_point": "python3",
    "arguments": ["-u", ""],
    "environment": {"A": "1", "empty": ""},
    "labels": {"team": "rl"},
    "metadata": {"anything": [1, 1.5, None, {"x": True}]},
    "working_dir": "/home/me",
    "resources": {"cpus": 8, "memory_mb": 1024, "gpus": {"requested": 2, "mandatory": False, "whole": True}},
    "artifacts": {"output_prefix": "out", "persist_logs": False, "keep_checkpoints": False},
    "schedule": {"max_duration_seconds": 3600.5, "max_steps": 1_000_000},
    "priority": -3,
    "retry": {"max_attempts": 3, "backoff_s": 0.25, "on": ["node_lost", "time_limit"]},
    "stop": {"signal": "SIGINT", "grace_s": 60},
    "heartbeat": {"source": "notify", "timeout_s": 30},
    "after": [RUN],
    "secrets": {"HF_TOKEN": {"file": "/etc/hf"}, "B": {"env": "B"}},
    "submission_key": "again",
    "code": {"sha256": "ab" * 32, "partial": True},
}


def leaves(value: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of the fields of the design's table, those of nested objects one by one."""
    nested = ("resources", "gpus", "artifacts", "schedule", "retry", "stop", "heartbeat")
    return [
        leaf
        for name, item in value.items()
        for leaf in (leaves(item, (*path, name)) if name in nested else [(*path, name)])
    ]


def at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def only(path: tuple[str, ...], value: object) -> dict[str, Any]:
    """A config with nothing but ``value`` at ``path``, and an entry point."""
    for name in reversed(path):
        value = {name: value}
    return {"entry_point": "/srv/train.py", **value}  # type: ignore[dict-item]


def shuffled(value: Any, order: random.Random) -> Any:
    match value:
        case dict():
            items = [(name, shuffled(item, order)) for name, item in value.items()]
            order.shuffle(items)
            return dict(items)
        case list():
            return [shuffled(item, order) for item in value]
        case _:
            return value


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
configs = st.fixed_dictionaries(
    {"entry_point": st.just("/srv/train.py")},
    optional={
        name: st.sampled_from([OTHER[name], DEFAULTS[name]]) for name in OTHER if name != "entry_point"
    },
)


def test_spelling_every_default_out_names_the_same_run() -> None:
    bare = run_config({"entry_point": "/srv/train.py"})
    assert run_config(DEFAULTS) == bare
    assert run_config(DEFAULTS).normalised() == {"entry_point": "/srv/train.py"}
    assert digest_of(run_config(DEFAULTS)) == digest_of(bare)


@pytest.mark.parametrize("path", leaves(DEFAULTS), ids=".".join)
def test_a_default_spelled_out_alone_is_left_out(path: tuple[str, ...]) -> None:
    config = run_config(only(path, at(DEFAULTS, path)))
    assert config.normalised() == {"entry_point": "/srv/train.py"}


@pytest.mark.parametrize("path", leaves(OTHER), ids=".".join)
def test_any_other_value_is_kept_and_names_another_run(path: tuple[str, ...]) -> None:
    config = run_config(only(path, at(OTHER, path)))
    assert at(config.normalised(), path) == at(OTHER, path)
    assert digest_of(config) != digest_of(run_config({"entry_point": "/srv/train.py"}))


def test_every_field_of_the_structs_has_a_check_and_no_other_has() -> None:
    def fields(kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        found: set[tuple[str, ...]] = set()
        for field in msgspec.structs.fields(kind):
            here = (*path, field.name)
            nested = isinstance(field.default, msgspec.Struct)
            found |= fields(type(field.default), here) if nested else {here}
        return found

    assert {tuple(field.split(".")) for field in config_input._every_field(config_input._CONFIG)} >= fields(
        RunConfig
    )
    assert set(leaves(DEFAULTS)) == set(leaves(OTHER)) == fields(RunConfig)


@given(configs, st.randoms(use_true_random=False))
def test_key_order_and_spelled_out_defaults_do_not_matter(
    config: dict[str, Any], order: random.Random
) -> None:
    accepted = run_config(config)
    spelled_out = msgspec.json.decode(msgspec.json.encode(accepted)) | {"run_name": accepted.name}
    expected = digest_of(accepted)
    assert digest_of(run_config(shuffled(config, order))) == expected
    assert digest_of(run_config(shuffled(spelled_out, order))) == expected
    assert digest_of(run_config(accepted.normalised())) == expected
    assert digest_of(stored_config(msgspec.json.encode(accepted.normalised()))) == expected


@given(json_values | st.dictionaries(st.sampled_from(sorted(OTHER)), json_values, max_size=4))
def test_any_json_value_is_refused_clearly_or_round_trips(raw: Any) -> None:
    if isinstance(raw, dict):
        raw = {"entry_point": "x"} | raw
    try:
        config = run_config(raw)
    except TrainshedError as error:
        assert error.code in (ErrorCode.INVALID, ErrorCode.TOO_LARGE)
        assert error.message
        return
    stored = msgspec.json.encode(config.normalised())
    assert stored_config(stored) == stored_config(msgspec.json.decode(stored)) == config
    assert run_config(parse_json(stored)) == config
    assert digest_of_json(msgspec.json.decode(stored)) == digest_of(config)


@pytest.mark.parametrize(
    ("path", "one", "same"),
    [
        (("stop", "grace_s"), 7, 7.0),
        (("stop", "grace_s"), 0, -0.0),
        (("retry", "backoff_s"), 10, 10.0),
        (("schedule", "max_duration_seconds"), 3600, 3.6e3),
        (("heartbeat", "timeout_s"), 2**53 - 1, float(2**53 - 1)),
        (("metadata", "lr"), 1, 1.0),
        (("metadata", "zero"), 0, -0.0),
    ],
)
def test_a_whole_number_is_the_same_number_however_written(
    path: tuple[str, ...], one: float, same: float
) -> None:
    assert digest_of(run_config(only(path, one))) == digest_of(run_config(only(path, same)))


def test_whole_numbers_are_stored_as_integers() -> None:
    stored = msgspec.json.encode(run_config(only(("stop", "grace_s"), 7.0)).normalised()["stop"])
    assert stored == b'{"grace_s":7}'


def test_metadata_stays_as_sent() -> None:
    metadata = {"b": 1.0, "a": [None, {"z": -0.0, "y": {}}], "arguments": [], "worker": None}
    stored = run_config({"entry_point": "x", "metadata": metadata}).normalised()["metadata"]
    assert repr(stored) == repr(metadata)


def test_the_reasons_to_retry_are_a_set_when_they_are_the_default() -> None:
    assert run_config({"entry_point": "x", "retry": {"on": [*reversed(RETRY_ON)]}}).normalised() == {
        "entry_point": "x"
    }
    assert run_config({"entry_point": "x", "retry": {"on": []}}).normalised()["retry"] == {"on": []}


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ({"entry_point": "/usr/bin/python3"}, "python3"),
        ({"entry_point": "./train.sh"}, "train.sh"),
        ({"entry_point": "train"}, "train"),
        ({"entry_point": "/opt/tool/"}, "tool"),
        ({"entry_point": "/"}, "/"),
        ({"entry_point": "/bin/" + "x" * 200}, "x" * 120),
        ({"entry_point": "python3", "metadata": {"worker": {"module": "my_worker.cli"}}}, "cli"),
        ({"metadata": {"worker": {"module": "train"}}}, "train"),
        (
            {"entry_point": "python3", "metadata": {"worker": {"script": "/srv/rl/ppo.py", "module": None}}},
            "ppo.py",
        ),
        ({"entry_point": "/bin/a", "run_name": "mine"}, "mine"),
        ({"entry_point": "/bin/a", "run_name": "é" * 120}, "é" * 120),
    ],
)
def test_a_run_is_named_by_its_config_or_by_what_it_runs(raw: dict[str, Any], name: str) -> None:
    config = run_config(raw)
    assert config.name == name
    assert run_config(raw | {"run_name": name}) == config


def test_a_given_name_equal_to_the_default_is_left_out() -> None:
    assert "run_name" not in run_config({"entry_point": "/bin/a", "run_name": "a"}).normalised()
    assert RunConfig(entry_point="/bin/a", run_name="a").normalised() == {"entry_point": "/bin/a"}


def test_the_gui_s_config_is_accepted_and_its_worker_decides() -> None:
    config = run_config(parse_json(GUI))
    assert config.normalised() == {
        "run_name": "ppo-1",
        "entry_point": "/usr/bin/python3",
        "arguments": ["-m", "my_worker.cli"],
        "resources": {"cpus": 2, "memory_mb": 2048, "gpus": {"mandatory": False}},
        "artifacts": {"output_prefix": "runs/ppo-1", "keep_checkpoints": False},
        "schedule": {"max_duration_seconds": 3600},
        "metadata": {"ui": {"algo": "ppo"}, "worker": GUI_WORKER},
    }
    assert config.launch() == {
        "entry_point": "/usr/bin/python3",
        "arguments": ["-m", "my_worker.cli"],
        "schedule": {"max_duration_seconds": 3600},
        "worker": GUI_WORKER,
    }
    assert config.name == "ppo-1"
    assert config.command == ["/usr/bin/python3", "-m", "my_worker.cli", "--seed", "1"]
    assert config.needs == Needs(cpus=2, memory_mb=2048, gpus=0, mandatory=False)
    assert config.max_duration_seconds == 3600


@pytest.mark.parametrize(
    ("raw", "command"),
    [
        ({"entry_point": "/bin/echo", "arguments": ["a b", ""]}, ["/bin/echo", "a b", ""]),
        ({"metadata": {"worker": {"module": "m"}}}, ["python3", "-m", "m"]),
        (
            {
                "entry_point": "/v/bin/python3.12",
                "metadata": {"worker": {"script": "/t.py", "arguments": ["1"]}},
            },
            ["/v/bin/python3.12", "/t.py", "1"],
        ),
        (
            {"entry_point": "/bin/sh", "metadata": {"worker": {"script": "t.py", "arguments": None}}},
            ["python3", "t.py"],
        ),
    ],
)
def test_the_command_is_what_will_run(raw: dict[str, Any], command: list[str]) -> None:
    assert run_config(raw).command == command


def test_a_launch_carries_what_a_node_needs_and_nothing_else() -> None:
    launch = run_config(OTHER).launch()
    names = [
        "entry_point",
        "arguments",
        "environment",
        "working_dir",
        "secrets",
        "schedule",
        "stop",
        "heartbeat",
        "code",
    ]
    assert launch == {name: OTHER[name] for name in names}
    assert run_config({"entry_point": "x"}).launch() == {"entry_point": "x"}


def test_what_the_scheduler_reads() -> None:
    config = run_config(OTHER)
    assert config.needs == Needs(cpus=8, memory_mb=1024, gpus=2, mandatory=False, whole=True)
    assert (config.priority, config.after, config.labels) == (-3, (RUN,), {"team": "rl"})
    assert (config.retry.max_attempts, config.retry.backoff_s, config.retry.on) == (
        3,
        0.25,
        ("node_lost", "time_limit"),
    )
    assert config.max_duration_seconds == 3600.5


def test_a_stored_config_of_a_newer_release_is_read() -> None:
    newer = {
        "entry_point": "x",
        "colour": {"new": True},
        "resources": {"cpus": 2, "tpus": 1},
        "retry": {"on": ["a_new_reason"]},
        "heartbeat": {"source": "a_new_source"},
    }
    config = stored_config(newer)
    assert (
        config
        == stored_config(msgspec.json.encode(newer))
        == stored_config(msgspec.Raw(msgspec.json.encode(newer)))
    )
    assert (config.resources.cpus, config.retry.on, config.heartbeat.source) == (
        2,
        ("a_new_reason",),
        "a_new_source",
    )


@pytest.mark.parametrize(
    "broken", [None, [], {"resources": 1}, {"arguments": "x"}, b"{", b"\xff", b'{"entry_point": "\xff"}']
)
def test_a_broken_stored_config_is_a_clear_error(broken: object) -> None:
    with pytest.raises(TrainshedError, match="not a stored run config"):
        stored_config(broken)


@given(json_values, json_values)
def test_whatever_metadata_a_log_holds_there_is_a_name_and_a_command(worker: Any, arguments: Any) -> None:
    for odd in (worker, {"module": worker}, {"script": worker}, {"module": "m", "arguments": arguments}):
        config = stored_config({"metadata": {"worker": odd}})
        assert isinstance(config.name, str)
        assert all(isinstance(part, str) for part in config.command)


# As it was before there were a field `code` and one `resources.gpus.whole`.
as_in_0_1 = {name: value for name, value in OTHER.items() if name != "code"}
as_in_0_1["resources"] = {**OTHER["resources"], "gpus": {"requested": 2, "mandatory": False}}
# Computed apart from this code too, by sha256sum: the first of `{"entry_point":"/bin/true"}`.
GOLDEN: dict[str, tuple[object, str, str]] = {
    "bare": (
        {"entry_point": "/bin/true"},
        "962ac55e2dee37bbdd4a5c21bc25fd14b9530a2e6f4b894dffe6b8269f33415d",
        "syvmkxrn5y33xxkklqq3yjp5cs",
    ),
    "defaults": (
        DEFAULTS,
        "334a85a656cf1cef6f51b2a71580e4025746a2ee51c5f8d72b86cb7bea49a9c7",
        "gnfiljswz4oo632rwktrlaheaj",
    ),
    "other": (
        as_in_0_1,
        "75a6c0ec0f5eaf642da4b6c61cb7f4ab96ed7d76a950356760de48ecc4b9735a",
        "owtmb3apl2xwilnew3dbzn7uvo",
    ),
    "gui": (
        parse_json(GUI),
        "2d7b133afa9d6692392438c12c5e289d1e2bf3d2d5be19b213de337e097a9e9a",
        "fv5rgox2tvtjeojehdasyxritu",
    ),
    "unicode": (
        {"entry_point": "/bin/ö", "labels": {"\U0001f600": "a", "\ufb33": "b"}, "metadata": {"x": 1e-7}},
        "567761964030713a66b88c1944e15ecc6459a397d843421ee5fed0e5c85be67f",
        "kz3wdfsagbytuzvyrqmujyk6zr",
    ),
}


@pytest.mark.parametrize("which", GOLDEN)
def test_digests_never_change(which: str) -> None:
    raw, hex_digest, run_id = GOLDEN[which]
    digest = digest_of(run_config(raw))
    assert (digest.hex, digest.run_id) == (hex_digest, run_id)
