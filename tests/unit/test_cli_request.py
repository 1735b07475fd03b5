"""What the options, files and commands of `submit` and `run` become."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from services.cli.config_options import config_options
from services.cli.request import Request, build
from tests.support.configs import run_config
from trainshed_client.code import code_of
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError
from trainshed_client.provenance import Provenance


def options(**given: Any) -> dict[str, Any]:
    """The options as click hands them over, those left out at their defaults."""
    import click

    @click.command()
    @config_options
    def parse(**parsed: Any) -> None: ...

    context = parse.make_context("submit", [])
    return {**context.params, **given}


def built(cwd: str = "/home/ada", environ: Mapping[str, str] | None = None, **given: Any) -> Request:
    return build(options(**given), environ=environ or {"PATH": "/usr/bin:/bin"}, cwd=cwd)


def the_config(**given: Any) -> dict[str, Any]:
    (config,) = built(**given).configs
    run_config(config)  # what the command line makes, the gateway accepts
    return config


def refusal(**given: Any) -> str:
    with pytest.raises(TrainshedError) as caught:
        built(**given)
    assert caught.value.code is ErrorCode.INVALID
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    return str(caught.value)


def test_a_bare_word_is_looked_up_in_the_callers_path_and_stored_absolute(tmp_path: Path) -> None:
    program = tmp_path / "train"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    config = the_config(command=("train", "--seed", "1"), environ={"PATH": str(tmp_path)})
    assert config == {
        "entry_point": str(program),
        "arguments": ["--seed", "1"],
        "working_dir": "/home/ada",
    }


def test_a_symbolic_link_stays_what_it_is_since_it_makes_a_venv(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to("/bin/sh")
    assert the_config(command=("python",), environ={"PATH": str(tmp_path)})["entry_point"] == str(
        tmp_path / "python"
    )


def test_the_code_of_a_commands_folder_goes_along_and_where_it_was_read_beside_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("1")
    here = built(cwd=str(tmp_path), command=("/bin/true",))
    assert here.configs[0]["code"] == code_of(tmp_path)
    assert here.beside["provenance"] == Provenance(folder=str(tmp_path))
    assert not here.warnings
    elsewhere = built(cwd="/", command=("/bin/true",), working_dir=str(tmp_path), code_ignore=("*.md",))
    assert elsewhere.configs[0]["code"] == code_of(tmp_path)
    assert elsewhere.beside["provenance"] == Provenance(folder=str(tmp_path), ignore=("*.md",))
    assert "code" not in the_config(cwd=str(tmp_path), command=("/bin/true",), no_code=True)
    assert "code" not in the_config(cwd=str(tmp_path), command=("/bin/true",), code_ignore=("*.py",))


def test_a_files_config_has_the_code_that_it_names_or_that_of_an_option(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text("1")
    code = {"sha256": "ab" * 32}
    file = tmp_path / "sweep.jsonl"
    file.write_text(
        "".join(json.dumps({"entry_point": "x", "priority": n, "code": code}) + "\n" for n in range(2))
    )
    for given, expected in (
        ({}, code),
        ({"code": "project"}, code_of(project)),
        ({"no_code": True}, None),
    ):
        request = built(cwd=str(tmp_path), file=str(file), **given)
        assert [config.get("code") for config in request.configs] == [expected] * 2


def test_what_has_no_code_is_told_of_once(tmp_path: Path) -> None:
    (warning,) = built(cwd="/", command=("/bin/true",)).warnings
    assert warning.startswith("the code is no part of this run: / is no project's folder")
    (warning,) = built(cwd="/no/such", command=("/bin/true",)).warnings
    assert "/no/such is not on this machine" in warning


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"no_code": True, "code": "."}, "--no-code goes with neither"),
        ({"no_code": True, "code_ignore": ("x",)}, "--no-code goes with neither"),
        ({"code": "/no/such"}, "--code /no/such: no such folder"),
    ],
)
def test_code_options_that_mean_nothing_are_refused(given: dict[str, Any], told: str) -> None:
    assert told in refusal(command=("/bin/true",), **given)


def test_code_ignore_needs_code(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text('{"entry_point": "/bin/true"}')
    assert "--code-ignore goes with --code DIR" in refusal(file=str(file), code_ignore=("x",))


def test_a_count_numbers_the_same_runs_each_time(tmp_path: Path) -> None:
    def keys(**given: Any) -> list[Any]:
        return [config.get("submission_key") for config in built(command=("/bin/true",), **given).configs]

    assert keys(count=3) == [None, "count-2", "count-3"] == keys(count=3)
    first, second = keys(count=2, new=True)
    assert second == f"{first}-2" and first not in keys(count=2, new=True)
    file = tmp_path / "sweep.jsonl"
    file.write_text('{"entry_point": "x"}\n{"entry_point": "y", "submission_key": "k"}\n')
    request = built(file=str(file), count=2)
    assert [(one["entry_point"], one.get("submission_key")) for one in request.configs] == [
        ("x", None), ("x", "count-2"), ("y", "k"), ("y", "k-2"),
    ]  # fmt: skip
    assert [place.rpartition(", ")[2] for place in request.places] == ["line 1", "line 1", "line 2", "line 2"]


def test_a_word_with_a_slash_is_taken_from_the_callers_folder() -> None:
    assert the_config(command=("./train.sh",))["entry_point"] == "/home/ada/train.sh"
    assert the_config(command=("/opt/x/../train",))["entry_point"] == "/opt/train"


def test_a_program_that_is_not_in_the_path_is_refused_by_name() -> None:
    assert "no program 'no-such-thing' is in your PATH" in refusal(command=("no-such-thing",))


def test_the_named_variables_go_along_and_those_by_which_programs_find_their_libraries() -> None:
    environ = {
        "PATH": "/bin",
        "SEED": "3",
        "HOME": "/home/ada",
        "VIRTUAL_ENV": "/home/ada/venv",
        "CONDA_PREFIX": "/opt/conda/envs/rl",
        "CONDA_DEFAULT_ENV": "rl",
        "PYTHONPATH": "/home/ada/lib",
        "LD_LIBRARY_PATH": "",
    }
    config = the_config(
        command=("sh",), env=("SEED", "MODE=fast=1", "EMPTY=", "PYTHONPATH=/other"), environ=environ
    )
    assert config["environment"] == {
        "SEED": "3",
        "MODE": "fast=1",
        "EMPTY": "",
        "VIRTUAL_ENV": "/home/ada/venv",
        "CONDA_PREFIX": "/opt/conda/envs/rl",
        "CONDA_DEFAULT_ENV": "rl",
        "PYTHONPATH": "/other",
    }


def test_a_file_has_its_own_environment_and_no_callers_path(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text('{"entry_point": "/bin/true"}')
    request = built(file=str(file), environ={"PATH": "/bin", "VIRTUAL_ENV": "/home/ada/venv"})
    assert request.configs == [{"entry_point": "/bin/true"}]
    assert request.caller_path is None


def test_the_callers_path_goes_beside_the_config() -> None:
    one, other = (
        built(command=("/bin/true",), environ={"PATH": path}) for path in ("/opt/a/bin:/bin", "/b:/bin")
    )
    assert one.configs == other.configs == [{"entry_point": "/bin/true", "working_dir": "/home/ada"}]
    assert (one.caller_path, other.caller_path) == ("/opt/a/bin:/bin", "/b:/bin")


def test_the_callers_path_is_less_trainsheds_own_venv_unless_that_is_the_active_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own" / "bin").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    own = f"{tmp_path}/own/bin"
    monkeypatch.setattr(sys, "prefix", f"{tmp_path}/own")

    def callers_path(**environ: str) -> str | None:
        return built(command=("/bin/true",), environ=environ).caller_path

    assert callers_path(PATH=f"{own}:/bin:{tmp_path}/link/bin/:/usr/bin") == "/bin:/usr/bin"
    assert callers_path(PATH=f"{own}:/bin", VIRTUAL_ENV="/home/ada/venv") == "/bin"
    assert callers_path(PATH=f"{own}:/bin", VIRTUAL_ENV=f"{tmp_path}/link") == f"{own}:/bin"
    assert callers_path(PATH=own) is None
    assert callers_path(PATH="/bin:/gr\udcfcn:/usr/bin") == "/bin:/usr/bin", "a name that is no text"
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert callers_path(PATH=f"{own}:/bin") == f"{own}:/bin", "no venv, so nobody's alone"


def test_a_variable_that_is_not_set_cannot_be_passed_on() -> None:
    assert "no such variable is set here" in refusal(command=("sh",), env=("SEED",))


def test_every_option_lands_in_its_field() -> None:
    config = the_config(
        command=("sh",),
        name="ppo",
        gpus=2,
        gpus_optional=True,
        cpus=4,
        memory="2G",
        priority=-3,
        time_limit="1h30m",
        after=("a" * 26,),
        labels=("exp=7", "who=ada"),
        secret=("WANDB=file:/etc/wandb",),
        retries=2,
        backoff="1m",
        retry_on=("node_lost", "exit_code"),
        signal="usr1",
        grace="1.5",
        heartbeat="notify",
        heartbeat_timeout="90",
        working_dir="sub",
    )
    assert config == {
        "entry_point": "/usr/bin/sh",
        "working_dir": "/home/ada/sub",
        "run_name": "ppo",
        "resources": {"gpus": {"requested": 2, "mandatory": False}, "cpus": 4, "memory_mb": 2048},
        "priority": -3,
        "after": ["a" * 26],
        "heartbeat": {"source": "notify", "timeout_s": 90},
        "schedule": {"max_duration_seconds": 5400},
        "retry": {"max_attempts": 3, "backoff_s": 60, "on": ["node_lost", "exit_code"]},
        "stop": {"signal": "SIGUSR1", "grace_s": 1.5},
        "labels": {"exp": "7", "who": "ada"},
        "secrets": {"WANDB": {"file": "/etc/wandb"}},
    }


def test_a_secret_given_as_a_value_is_refused_without_being_shown() -> None:
    text = refusal(command=("sh",), secret=("WANDB=s3cret",))
    assert "s3cret" not in text
    assert "WANDB=file:" in text


def test_a_pause_or_reasons_for_a_retry_that_never_comes_are_told_of(tmp_path: Path) -> None:
    request = built(command=("/bin/true",), backoff="5", retry_on=("exit_code",), no_code=True)
    assert request.warnings == [
        "--backoff and --retry-on without --retries: nothing is tried again; --retries 2 allows two more attempts"
    ]
    assert not built(command=("/bin/true",), backoff="5", retries=1, no_code=True).warnings
    file = tmp_path / "run.json"
    file.write_text('{"entry_point": "/bin/true", "retry": {"max_attempts": 2}}')
    assert not built(file=str(file), backoff="5").warnings


def test_options_go_over_the_fields_of_a_file_and_leave_the_others(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text('{"entry_point": "x", "resources": {"cpus": 2, "memory_mb": 5}, "labels": {"a": "1"}}')
    config = the_config(file=str(file), cpus=8, labels=("b=2",))
    assert config["resources"] == {"cpus": 8, "memory_mb": 5}
    assert config["labels"] == {"a": "1", "b": "2"}


def test_a_json_config_is_sent_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text(
        '{"entry_point": "x", "schedule": {"max_duration_seconds": 5.0}, "metadata": {"é": [null]}}'
    )
    assert the_config(file=str(file)) == {
        "entry_point": "x",
        "schedule": {"max_duration_seconds": 5.0},
        "metadata": {"é": [None]},
    }


def test_yaml_is_read_by_its_name_or_by_its_look(tmp_path: Path) -> None:
    for name in ("run.yaml", "run.yml", "run"):
        file = tmp_path / name
        file.write_text("entry_point: x\narguments: [a, b]\n")
        assert the_config(file=str(file)) == {"entry_point": "x", "arguments": ["a", "b"]}


def test_a_config_may_come_from_stdin() -> None:
    request = build(options(file="-"), environ={}, cwd="/", stdin=lambda: b'{"entry_point": "x"}')
    assert request.configs == [{"entry_point": "x"}]
    assert not request.batch


def test_a_jsonl_file_holds_several_runs_and_options_go_over_each(tmp_path: Path) -> None:
    file = tmp_path / "sweep.jsonl"
    file.write_text('{"entry_point": "x", "arguments": ["1"]}\n\n{"entry_point": "x", "arguments": ["2"]}\n')
    request = built(file=str(file), priority=5)
    assert request.batch
    assert request.configs == [
        {"entry_point": "x", "arguments": ["1"], "priority": 5},
        {"entry_point": "x", "arguments": ["2"], "priority": 5},
    ]


def test_new_makes_up_another_key_for_every_run(tmp_path: Path) -> None:
    file = tmp_path / "sweep.jsonl"
    file.write_text('{"entry_point": "x"}\n{"entry_point": "x"}\n')
    keys = [config["submission_key"] for config in built(file=str(file), new=True).configs]
    assert len(set(keys)) == 2


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", "{", "a.json: this is not JSON"),
        ("a.json", '{"a": 1, "a": 2}', "a.json: a: given twice, on line 1"),
        ("a.json", "[1]", "a.json: a run config must be an object"),
        ("a.yaml", "a: [", "a.yaml: this is not YAML"),
        ("a.jsonl", '{"entry_point": "x"}\n{"b": \n', "a.jsonl, line 2: this is not JSON"),
        ("a.jsonl", "\n", "a.jsonl holds no run config"),
        ("a.json", '{"priority": NaN}', "priority"),
    ],
)
def test_what_cannot_be_read_is_told_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    assert told in refusal(file=name)


def test_a_file_that_is_not_there_is_told_by_name() -> None:
    assert "/no/such.json cannot be read (no such file or directory)" in refusal(file="/no/such.json")


def test_exactly_one_of_file_and_command_is_needed() -> None:
    assert "nothing to run" in refusal()
    assert "exclude each other" in refusal(command=("sh",), file="x")


@pytest.mark.parametrize(
    "given",
    [
        {"time_limit": "soon"},
        {"heartbeat_timeout": "-1"},
        {"memory": "many"},
        {"backoff": "soon"},
        {"grace": "-1"},
        {"signal": "USR1@60"},
        {"labels": ("novalue",)},
        {"labels": ("=x",)},
    ],
)
def test_words_that_mean_nothing_are_refused_by_their_option(given: dict[str, Any]) -> None:
    option = "--" + next(iter(given)).replace("labels", "label").replace("_", "-")
    assert option in refusal(command=("sh",), **given)


def test_a_shell_whose_folder_was_deleted_submits_what_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "run.json"
    config.write_text('{"entry_point": "/bin/true"}')
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    environ = {"PATH": "/usr/bin:/bin"}
    assert build(options(file=str(config)), environ=environ).configs[0]["entry_point"] == "/bin/true"
    elsewhere = build(options(command=("true",), working_dir=str(tmp_path)), environ=environ)
    assert elsewhere.configs[0]["working_dir"] == str(tmp_path)
    for given in (
        {"command": ("/bin/true",)},
        {"command": ("./true",), "working_dir": str(tmp_path)},
        {"command": ("/bin/true",), "working_dir": "x"},
        {"file": "run.json"},
        {"file": str(config), "code": "."},
    ):
        with pytest.raises(TrainshedError, match=r"was deleted meanwhile.*cd.*--working-dir") as caught:
            build(options(**given), environ=environ)
        assert caught.value.code is ErrorCode.INVALID
