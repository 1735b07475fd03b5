"""`--set PATH=VALUE`: any field, read as a file has it, over what else is said; and folders relative to their file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from events.config_text import parse_value, parse_yaml
from services.cli.request import build
from services.cli.set_option import settings_of
from tests.unit.test_cli_request import built, options, refusal, the_config
from trainshed_client.errors import TrainshedError


def set_in(config: dict[str, Any], *fields: str) -> dict[str, Any]:
    for setting in settings_of(fields, "/home/ada"):
        setting.put_in(config)
    return config


@pytest.mark.parametrize(
    ("field", "config"),
    [
        ("resources.gpus.requested=2", {"resources": {"gpus": {"requested": 2}}}),
        ("metadata.worker.config.lr=1e-4", {"metadata": {"worker": {"config": {"lr": 0.0001}}}}),
        ("metadata.worker.module=1e-4", {"metadata": {"worker": {"module": "1e-4"}}}),
        ("environment.LR=1e-4", {"environment": {"LR": "1e-4"}}),
        ("environment.NOTE=a: b #c = *d", {"environment": {"NOTE": "a: b #c = *d"}}),
        ("environment.SPACE= a ", {"environment": {"SPACE": " a "}}),
        ("priority= 3 ", {"priority": 3}),
        ("run_name=yes", {"run_name": "yes"}),
        ('run_name="5 # five"', {"run_name": "5 # five"}),
        ("working_dir=sub/../x", {"working_dir": "/home/ada/x"}),
        ("working_dir=null", {"working_dir": None}),
        ("resources.gpus.mandatory=False", {"resources": {"gpus": {"mandatory": False}}}),
        ("retry.on=[node_lost, exit_code]", {"retry": {"on": ["node_lost", "exit_code"]}}),
        ("resources={cpus: 2}", {"resources": {"cpus": 2}}),
        ("arguments[0]=5", {"arguments": ["5"]}),
        ('labels."a.b/c"=5', {"labels": {"a.b/c": "5"}}),
        ("metadata.grid[0].lr=.5", {"metadata": {"grid": [{"lr": 0.5}]}}),
        ("metadata.x={a: [1e3, yes]}", None),
        ("secrets.KEY.file=/etc/key", {"secrets": {"KEY": {"file": "/etc/key"}}}),
    ],
)
def test_a_field_is_set_by_its_path_and_read_as_in_a_file(field: str, config: dict[str, Any] | None) -> None:
    if config is None:
        with pytest.raises(TrainshedError, match=r"x\.a\[1\]: yes may mean a word or true"):
            set_in({}, field)
    else:
        assert repr(set_in({}, field)) == repr(config)


SCALARS = st.sampled_from(["5", "-0.5", "1e-4", ".5e3", "5.", "true", "off", "012", "0x1f", "1:30", "~", "null",
                           "2026-01-31", "3.11.2", "ppo", '"1e-4"', "'no'", "1e999", "!!str 5"])  # fmt: skip
PLACES = st.sampled_from(
    [("run_name",), ("priority",), ("arguments", 0), ("metadata", "lr"), ("labels", "a")]
)


@given(SCALARS, PLACES)
@example("1e-4", ("metadata", "worker"))
def test_a_value_reads_as_it_does_in_a_yaml_file(text: str, place: tuple[str | int, ...]) -> None:
    """But for what YAML itself takes away from a word: tags, comments, colons. On a command line these are letters of it."""
    nested = text
    for name in reversed(place):
        nested = f"[{nested}]" if isinstance(name, int) else f"{{{name}: {nested}}}"

    def outcome(read: Any) -> str:
        try:
            value = read()
        except TrainshedError:
            return "refused"
        return repr(value)

    def in_file() -> object:
        value: Any = parse_yaml(nested.encode())
        for name in place:
            value = value[name]
        return value

    expected = outcome(in_file) if not text.startswith("!") else repr(text)
    assert outcome(lambda: parse_value(text, place)) == expected


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (["resurces.gpus=1"], ["--set resurces: unknown field; did you mean resources? Accepted here: after,"]),
        (["resources.gpu.requested=1"], ["--set resources.gpu: unknown field; did you mean resources.gpus?", "cpus"]),
        (["metadata.lr=on", "prority=2"], ["2 things are wrong", "--set metadata.lr: on may mean", """--set 'metadata.lr="…"'""", "--set prority"]),
        (["resources.gpus"], ["'resources.gpus' is no PATH=VALUE", "--set resources.gpus.requested=2"]),
        (["=2"], ["no PATH=VALUE"]),
        ([".priority=2"], ["no PATH=VALUE"]),
        (["priority.=2"], ["no PATH=VALUE"]),
        (["arguments.[0]=2"], ["no PATH=VALUE"]),
        (["resources[0]=2"], ["unknown field", "cpus, gpus, memory_mb"]),
        (["priority=9007199254740993"], ["--set priority: an integer must lie within"]),
        (['run_name="a'], ["--set run_name: this is not YAML"]),
        (["code.sha256=ab"], ["--set code.sha256", "--no-code"]),
    ],
)  # fmt: skip
def test_a_wrong_path_or_value_is_refused_with_what_is_there(fields: list[str], told: list[str]) -> None:
    text = refusal(command=("/bin/true",), fields=tuple(fields))
    assert [part for part in told if part not in text] == [], text


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("arguments[4]=x", "arguments[4]: arguments is a list: it has 2 entries, the first of which is [0]; [2] adds one"),
        ("arguments.first=x", "arguments.first: arguments is a list: it has 2 entries"),
        ("metadata[0]=x", "metadata[0]: metadata is an object: its fields have names; there: worker"),
        ("metadata.worker.module.x=1", "metadata.worker.module.x: metadata.worker.module is a string: nothing is in it"),
    ],
)  # fmt: skip
def test_a_path_through_what_a_file_has_otherwise_is_refused(tmp_path: Path, field: str, told: str) -> None:
    config = {"arguments": ["a", "b"], "metadata": {"worker": {"module": "m"}}}
    (tmp_path / "run.json").write_text(json.dumps(config))
    (tmp_path / "two.jsonl").write_text('{"arguments": [], "metadata": {}}\n' + json.dumps(config))
    assert told in refusal(file=str(tmp_path / "run.json"), fields=(field,))
    assert f"two.jsonl, line 2: {told}" in refusal(file=str(tmp_path / "two.jsonl"), fields=(field,))


def test_a_file_then_plain_options_then_set_each_in_its_order(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "{entry_point: x, priority: 1, arguments: [--seed, 1], labels: {a: 1}, after: [%s]}" % ("a" * 26)
    )
    config = the_config(
        file=str(file), priority=2, labels=("b=2",), after=("b" * 26,), retries=1,
        fields=("priority=3", "priority=4", "arguments[1]=7", "labels.c=3", "retry.backoff_s=1"),
    )  # fmt: skip
    assert config == {
        "entry_point": "x",
        "priority": 4,
        "arguments": ["--seed", "7"],
        "labels": {"a": "1", "b": "2", "c": "3"},
        "after": ["b" * 26],
        "retry": {"max_attempts": 2, "backoff_s": 1},
    }


def test_set_goes_with_a_command_and_over_each_line_of_a_file(tmp_path: Path) -> None:
    config = the_config(command=("/bin/true",), no_code=True, fields=("schedule.max_steps=10",))
    assert config["schedule"] == {"max_steps": 10}
    file = tmp_path / "sweep.jsonl"
    file.write_text('{"entry_point": "x"}\n{"entry_point": "y"}\n')
    one, other = built(file=str(file), fields=("metadata.grid=[1]",)).configs
    assert one["metadata"] == other["metadata"] == {"grid": [1]}
    assert one["metadata"]["grid"] is not other["metadata"]["grid"]


def test_a_name_in_metadata_that_the_file_has_not_is_told_of(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(
        '{"entry_point": "x", "metadata": {"worker": {"script": "t.py", "config": {"lr": 1, "seed": 2}}}}'
    )

    def warnings(*fields: str, **given: Any) -> list[str]:
        return built(**{"file": str(file), **given}, fields=fields).warnings

    assert warnings("metadata.worker.config.lr=2", "labels.new=1", "metadata.worker.config={}") == []
    assert warnings("metadata.worker.config.lrr=2", "metadata.worker.config.x.y=1") == [
        f"--set metadata.worker.config.lrr is new in {file}, which has there: lr, seed",
        f"--set metadata.worker.config.x.y is new in {file}, which has there: lr, seed",
    ]
    assert warnings("metadata.a=1", "metadata.b=2", file=None, command=("/bin/true",), no_code=True) == []


@pytest.mark.parametrize(
    ("written", "stored"),
    [(".", "{file}"), ("sub", "{file}/sub"), ("../x", "{above}/x"), ("/opt/x/", "/opt/x/"), (None, None),
     ("~/x", "~/x"), ("$HOME/x", "$HOME/x"), ("{{run_dir}}", "{{run_dir}}"), ("", ""), (5, 5)],
)  # fmt: skip
def test_a_working_dir_is_one_of_its_files_folder(tmp_path: Path, written: Any, stored: Any) -> None:
    """What a shell would make something else of is left as it is, and so refused."""
    folder = tmp_path / "configs"
    folder.mkdir()
    if isinstance(stored, str):
        stored = stored.replace("{file}", str(folder)).replace("{above}", str(tmp_path))
    config = {"entry_point": "./train.py", "working_dir": written}
    (folder / "run.json").write_text(json.dumps(config))
    (folder / "sweep.jsonl").write_text(json.dumps(config) + "\n" + json.dumps({"entry_point": "x"}))
    assert built(cwd=str(tmp_path), file=str(folder / "run.json")).configs[0]["working_dir"] == stored
    one, other = built(cwd=str(tmp_path), file=str(folder / "sweep.jsonl")).configs
    assert one["working_dir"] == stored
    assert "working_dir" not in other


def test_a_working_dir_from_stdin_or_an_option_is_one_of_the_callers_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(**given: Any) -> Any:
        stdin = b'{"entry_point": "x", "working_dir": "sub"}'
        return build(options(**given), environ={}, cwd=str(tmp_path), stdin=lambda: stdin).configs[0][
            "working_dir"
        ]

    assert folder(file="-") == str(tmp_path / "sub")
    assert folder(file="-", working_dir="other") == str(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    Path("run.json").write_text('{"entry_point": "x", "working_dir": "."}')
    assert built(cwd=str(tmp_path), file="run.json").configs[0]["working_dir"] == str(tmp_path)
