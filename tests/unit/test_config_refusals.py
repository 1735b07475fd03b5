"""Bad input: each is refused by path, with what is wrong and what is accepted, and shows no secret."""

from __future__ import annotations

import math
from typing import Any

import pytest

from events.config_input import parse_json, parse_yaml
from tests.support.configs import run_config
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError

# (JSON text, path, a part of the message); a field without entry_point gets one.
JSON: list[tuple[bytes, str | None, str]] = [
    # No JSON at all
    (b"", None, "not JSON: Expecting value (line 1, column 1)"),
    (b"train.py", None, "not JSON"),
    (b'{"entry_point": "x",}', None, "(line 1, column 21)"),
    (b'{"entry_point": "x"} {}', None, "not JSON: Extra data"),
    (b"{'entry_point': 'x'}", None, "double quotes"),
    (b'{"entry_point": "x\ny"}', None, "not JSON: Invalid control character"),
    (b'{"entry_point":\n "\xff"}', None, "not UTF-8: byte 18 (line 2)"),
    (b'{"entry_point": "\xed\xa0\x80"}', None, "not UTF-8"),
    (b'{"entry_point": "x\0"}', None, "byte 18 (line 1) is nul"),
    ('{"entry_point": "x"}'.encode("utf-16"), None, "not text"),
    (b"[" * 200_000, None, "nested more than 64 deep"),
    (b'{"a":' * 500 + b'{"b": 1, "b": 2}' + b"}" * 500, None, "nested more than 64 deep"),
    (b'{"metadata": ' + b'{"a":' * 64 + b"1" + b"}" * 65, None, "nested more than 64 deep"),
    (b'{"entry_point": "x", "metadata": {"a": "' + b"x" * 10_000_000 + b'"}}', None, "at most 262,144"),
    # JSON, but no object
    (b"null", None, "must be an object"),
    (b"[]", None, "not a list"),
    (b'"python3 train.py"', None, "not a string"),
    (b"1", None, "not a number"),
    # Names
    (b'{"entry_point": "x",\n"entry_point": "x"}', "entry_point", "given twice, on lines 1 and 2"),
    (b'{"resources": {"cpus": 1, "cpus": 2}}', "resources.cpus", "given twice"),
    (b'{"nonsense": 1}', "nonsense", "unknown field. Accepted here: after, arguments,"),
    (b'{"run_nam": "x"}', "run_nam", "did you mean run_name?"),
    (b'{"Priority": 1}', "Priority", "did you mean priority?"),
    (b'{"env": {}}', "env", "did you mean environment?"),
    (b'{"gpus": 1}', "gpus", "did you mean resources.gpus?"),
    (b'{"max_attempts": 2}', "max_attempts", "did you mean retry.max_attempts?"),
    (b'{"resources": {"gpu": 1}}', "resources.gpu", "did you mean resources.gpus?"),
    (b'{"resources": {"gpus": {"count": 1}}}', "resources.gpus.count", "Accepted here: mandatory, requested"),
    (b'{"stop": {"grace": 1}}', "stop.grace", "did you mean stop.grace_s?"),
    # What Trainshed sets itself
    (b'{"environment": {"TRAINSHED_RUN_ID": "x"}}', "environment.TRAINSHED_RUN_ID", "write {{run_id}} there"),
    (b'{"environment": {"TRAINSHED_CPUS": "8"}}', "environment.TRAINSHED_CPUS", '"resources": {"cpus": 4}'),
    (b'{"environment": {"CUDA_VISIBLE_DEVICES": "0"}}', "environment.CUDA_VISIBLE_DEVICES", '"requested": 1'),
    (
        b'{"environment": {"CUDA_VISIBLE_DEVICES": ""}, "resources": {"gpus": {"requested": 1}}}',
        "environment.CUDA_VISIBLE_DEVICES",
        "empty is accepted where none is asked for",
    ),
    (
        b'{"environment": {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}}',
        "environment.CUDA_DEVICE_ORDER",
        "PCI_BUS_ID",
    ),
    (b'{"secrets": {"NOTIFY_SOCKET": {"env": "X"}}}', "secrets.NOTIFY_SOCKET", "Trainshed sets this itself"),
    # Numbers
    (b'{"resources": {"cpus": NaN}}', "resources.cpus", "must be a finite number"),
    (b'{"metadata": {"a": [1, -Infinity]}}', "metadata.a[1]", "must be a finite number"),
    (b'{"stop": {"grace_s": 1e999}}', "stop.grace_s", "must be a finite number"),
    (b'{"stop": {"grace_s": 0.1e-400}}', "stop.grace_s", "must be a finite number"),
    (b'{"metadata": {"id": 9007199254740992}}', "metadata.id", "within \u00b1(2^53 - 1)"),
    (b'{"priority": -' + b"9" * 20_000 + b"}", "priority", "within \u00b1(2^53 - 1)"),
    (
        b'{"resources": {"gpus": {"requested": -1}}}',
        "resources.gpus.requested",
        "integer of at least 0, not -1",
    ),
    (b'{"resources": {"gpus": {"requested": 1.5}}}', "resources.gpus.requested", "not 1.5"),
    (b'{"resources": {"cpus": 0}}', "resources.cpus", "integer of at least 1, not 0"),
    (b'{"resources": {"cpus": 5.0}}', "resources.cpus", "an integer of at least 1, not 5.0; write 5"),
    (b'{"resources": {"cpus": true}}', "resources.cpus", "not true"),
    (b'{"resources": {"cpus": "4"}}', "resources.cpus", "not a string; write 4 without quotes"),
    (b'{"resources": {"memory_mb": -1}}', "resources.memory_mb", "at least 0"),
    (b'{"resources": {"memory_mb": null}}', "resources.memory_mb", "not null"),
    (b'{"priority": 1e2}', "priority", "an integer, not 100.0; write 100"),
    (
        b'{"schedule": {"max_duration_seconds": 0}}',
        "schedule.max_duration_seconds",
        "greater than 0, not 0 (or null: no",
    ),
    (
        b'{"schedule": {"max_duration_seconds": true}}',
        "schedule.max_duration_seconds",
        "a number greater than 0, not true",
    ),
    (
        b'{"schedule": {"max_duration_seconds": "1h"}}',
        "schedule.max_duration_seconds",
        "not a string (or null",
    ),
    (b'{"schedule": {"max_steps": 1.0}}', "schedule.max_steps", "an integer of at least 0"),
    (b'{"retry": {"max_attempts": 0}}', "retry.max_attempts", "at least 1"),
    (b'{"retry": {"backoff_s": -0.5}}', "retry.backoff_s", "at least 0, not -0.5"),
    (b'{"stop": {"grace_s": "1e-4"}}', "stop.grace_s", "write 0.0001 without quotes"),
    (b'{"heartbeat": {"timeout_s": 0}}', "heartbeat.timeout_s", "greater than 0"),
    # Strings and lists
    (b'{"entry_point": ""}', "entry_point", "must not be empty"),
    (b'{"entry_point": null}', "entry_point", "must be a string, not null"),
    (b'{"entry_point": ["python3"]}', "entry_point", "must be a string, not a list"),
    (b'{"entry_point": "a\\u0000b"}', "entry_point", "nul character"),
    (b'{"entry_point": "a\\ud800"}', "entry_point", "lone surrogate \\ud800"),
    (b'{"run_name": " \\t\\n"}', "run_name", "must not be blank"),
    (b'{"run_name": "\\u200b\\u0007"}', "run_name", "must not be blank"),
    (b'{"entry_point": " "}', "entry_point", "must not be blank"),
    (b'{"run_name": ""}', "run_name", "must not be empty"),
    (b'{"run_name": "' + b"x" * 121 + b'"}', "run_name", "at most 120 characters; this has 121"),
    (b'{"run_name": 7}', "run_name", "must be a string, not a number; write it in quotes"),
    (b'{"arguments": "--lr 1"}', "arguments", "must be a list like [...], not a string"),
    (b'{"arguments": ["a", 1]}', "arguments[1]", "must be a string, not a number; write it in quotes"),
    (b'{"arguments": ["a\\u0000"]}', "arguments[0]", "nul character"),
    (b'{"environment": {"A": 1}}', "environment.A", "must be a string, not a number; write it in quotes"),
    (b'{"environment": {"DEBUG": true}}', "environment.DEBUG", "not true; write it in quotes"),
    (b'{"environment": {"A=B": "1"}}', "environment.A=B", 'must not hold "="'),
    (b'{"environment": {"": "1"}}', 'environment.""', "must not be empty"),
    (b'{"environment": {"A\\u0000": "1"}}', "environment", "a name in it holds a nul character"),
    (b'{"environment": [["A", "1"]]}', "environment", "must be an object like {...}, not a list"),
    (b'{"labels": {"a": null}}', "labels.a", "must be a string, not null"),
    (b'{"labels": {"a=b": "c"}}', "labels.a=b", 'must not hold "="'),
    (b'{"working_dir": "src"}', "working_dir", 'absolute path, as "/home/me/project", not "src" (or null'),
    (b'{"working_dir": ""}', "working_dir", "absolute path"),
    (b'{"artifacts": {"persist_logs": 1}}', "artifacts.persist_logs", "must be true or false, not a number"),
    (b'{"artifacts": {"persist_logs": "true"}}', "artifacts.persist_logs", "write true without quotes"),
    (b'{"artifacts": null}', "artifacts", "must be an object like {...}, not null"),
    (b'{"resources": {"gpus": 1}}', "resources.gpus", "must be an object like {...}, not a number"),
    (
        b'{"submission_key": 5}',
        "submission_key",
        "must be a string, not a number; write it in quotes (or null",
    ),
    (b'{"metadata": []}', "metadata", "must be an object"),
    # Words
    (b'{"stop": {"signal": "TERM"}}', "stop.signal", "did you mean SIGTERM?"),
    (b'{"stop": {"signal": "sigint"}}', "stop.signal", "did you mean SIGINT?"),
    (b'{"stop": {"signal": "SIGNOPE"}}', "stop.signal", 'like "SIGTERM" or "SIGINT", not "SIGNOPE"'),
    (b'{"stop": {"signal": 15}}', "stop.signal", "not a number"),
    (
        b'{"heartbeat": {"source": "stdout"}}',
        "heartbeat.source",
        'one of process, output, notify, not "stdout"',
    ),
    (b'{"retry": {"on": ["exit_code", "oom"]}}', "retry.on[1]", 'not "oom"'),
    (b'{"retry": {"on": ["dependency_failed"]}}', "retry.on[0]", "must be one of exit_code, signal,"),
    (b'{"retry": {"on": "exit_code"}}', "retry.on", "must be a list"),
    (b'{"after": ["k3f2q7"]}', "after[0]", "full run id, 26 of the characters a-z and 2-7"),
    (b'{"after": ["' + b"A" * 26 + b'"]}', "after[0]", "full run id"),
    (b'{"after": "' + b"a" * 26 + b'"}', "after", "must be a list"),
    # Secrets and credentials
    (b'{"secrets": {"A": "hunter2"}}', "secrets.A", "never the value itself, not a string"),
    (b'{"secrets": {"A": {}}}', "secrets.A", 'exactly one of "file" and "env"; neither is'),
    (b'{"secrets": {"A": {"file": "/a", "env": "A"}}}', "secrets.A", "both are given"),
    (b'{"secrets": {"A": {"value": "hunter2"}}}', "secrets.A.value", "unknown field"),
    (b'{"secrets": {"A": {"file": ""}}}', "secrets.A.file", "must not be empty"),
    (b'{"secrets": {"A": {"env": "B=C"}}}', "secrets.A.env", 'must not hold "="'),
    (b'{"secrets": {"A=": {"env": "B"}}}', "secrets.A=", 'must not hold "="'),
    (b'{"environment": {"HF_TOKEN": "hunter2"}}', "environment.HF_TOKEN", '"secrets": {"HF_TOKEN": {"file":'),
    (b'{"metadata": {"a": {"password": "hunter2"}}}', "metadata.a.password", "looks like a plain credential"),
    # The older worker
    (b'{"metadata": {"worker": {}}}', "metadata.worker", 'exactly one of "module" and "script"; neither is'),
    (b'{"metadata": {"worker": {"module": "m", "script": "s"}}}', "metadata.worker", "both are given"),
    (b'{"metadata": {"worker": "m"}}', "metadata.worker", "must be an object"),
    (b'{"metadata": {"worker": {"module": ""}}}', "metadata.worker.module", "must not be empty"),
    (
        b'{"metadata": {"worker": {"modul": "m"}}}',
        "metadata.worker",
        'exactly one of "module" and "script"; neither is (passed over: modul)',
    ),
    (
        b'{"metadata": {"worker": {"module": "m", "arguments": [1]}}}',
        "metadata.worker.arguments[0]",
        "write it in quotes",
    ),
    (
        b'{"metadata": {"worker": {"module": "m", "config": "{}"}}}',
        "metadata.worker.config",
        "must be an object",
    ),
    (
        b'{"metadata": {"worker": {"module": "m", "worker_id": 1}}}',
        "metadata.worker.worker_id",
        "must be a string",
    ),
]
YAML: list[tuple[bytes, str | None, str]] = [
    (b"", None, "must be an object like"),
    (b"a: b: c", None, "not YAML: mapping values are not allowed in this context (line 1, column 5)"),
    (b"a:\n\t- b", None, "not YAML"),
    (b"a: [1, 2", None, "not YAML"),
    (b"a: \xff", None, "not UTF-8: byte 3 (line 1)"),
    (b"a: \0", None, "is nul"),
    (b"a: 1\nb: \x01", None, "the control character '\\x01' (line 2)"),
    (b'a: "\\ud800"', None, "not YAML"),
    (b'a: "\\0"', "a", "nul character"),
    (b"[" * 200_000, None, "nested more than 64 deep"),
    (b"- " * 100_000, None, "nested more than 64 deep"),
    (b"#" * 262_145, None, "at most 262,144"),
    (
        b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "a",
        "anchors (&a) are not accepted; write the value out (line 1)",
    ),
    (
        b"environment:\n  A: *x",
        "environment.A",
        "aliases (*x) are not accepted; write the value out (line 2)",
    ),
    (
        b"resources:\n  <<: {cpus: 1}",
        "resources",
        "merge keys (<<) are not accepted; write the fields out (line 2)",
    ),
    (
        b'a: !!python/object/apply:os.system ["true"]',
        "a",
        "tags (!!python/object/apply:os.system) are not accepted",
    ),
    (b"a: !!str 5", "a", "tags (!!str)"),
    (b"a: 1\n---\na: 2", None, "a second YAML document begins"),
    (b"? [a]\n: 1", None, "a name must be a string"),
    (
        b"run_name: x\nentry_point: y\nrun_name: z",
        "run_name",
        "given twice, on lines 1 and 3; keep one of them",
    ),
    (b"environment: {A: x, A: y}", "environment.A", "given twice, on line 1"),
    (b"environment:\n  A: x\n  'A': y", "environment.A", "given twice, on lines 2 and 3"),
    (b"metadata: {x: on}", "metadata.x", 'write it in quotes, "on", or true (line 1)'),
    (b"metadata:\n  a: b\n  debug: no", "metadata.debug", 'write it in quotes, "no", or false (line 3)'),
    (b"metadata: {flags: [a, Off]}", "metadata.flags[1]", 'write it in quotes, "Off", or false'),
    (b"metadata: {country: NO}", "metadata.country", 'write it in quotes, "NO"'),
    (b"artifacts: {persist_logs: yes}", "artifacts.persist_logs", "or true"),
    (b"arguments: [--seed, ~]", "arguments[1]", 'must be a string, not null; an empty one is ""'),
    (b"environment:\n  A:\n", "environment.A", 'must be a string, not null; an empty one is ""'),
    (b"arguments: [[1]]", "arguments[0]", "must be a string, not a list"),
    (b"metadata: {day: 2026-01-31}", "metadata.day", 'write it in quotes, "2026-01-31"'),
    (b"metadata: {at: 2026-01-31T10:00:00Z}", "metadata.at", "write it in quotes"),
    (b"priority: 0x1f", "priority", "0x1f is no plain decimal number"),
    (b"priority: 010", "priority", "010 is no plain decimal number"),
    (b"priority: 08", "priority", "08 is no plain decimal number"),
    (b"metadata: {n: -01.5e3}", "metadata.n", "-01.5e3 is no plain decimal number"),
    (b"metadata: {n: 0o17}", "metadata.n", "0o17 is no plain decimal number"),
    (b"metadata: {n: 1e400}", "metadata.n", "finite number, as JSON has no NaN"),
    (b"metadata: {n: 1e-400}", "metadata.n", "finite number, as JSON has no NaN"),
    (b"metadata: {config: {r: .inf}}", "metadata.config.r", "JSON has no .inf"),
    (b"priority: 1e3", "priority", "must be an integer, not 1000.0; write 1000"),
    (b"priority: 1_000", "priority", "1_000 is no plain decimal number"),
    (
        b"schedule: {max_duration_seconds: 1:30:00}",
        "schedule.max_duration_seconds",
        "1:30:00 is no plain decimal",
    ),
    (b"stop: {grace_s: .inf}", "stop.grace_s", "JSON has no .inf"),
    (b"stop: {grace_s: .nan}", "stop.grace_s", "JSON has no .nan"),
    (b"metadata: {a: 9007199254740993}", "metadata.a", "within \u00b1(2^53 - 1)"),
    (b"metadata: {a: =}", "metadata.a", 'write it in quotes, "="'),
    (b"environment:", "environment", "must be an object like {...}, not null"),
    (b"environment: {WANDB_API_KEY: hunter2}", "environment.WANDB_API_KEY", "plain credential"),
]
PYTHON: list[tuple[Any, str | None, str]] = [
    ({}, "entry_point", 'required: the program to run, as in "python3"'),
    ({"metadata": {"worker": None}}, "entry_point", "required"),
    ({"entry_point": "x", "arguments": ("a",)}, "arguments", "JSON has no such value (tuple)"),
    ({"entry_point": "x", "labels": {"\ud800": "a"}}, "labels", "a name in it holds half a character"),
    ({"entry_point": b"x"}, "entry_point", "(bytes)"),
    (
        {"entry_point": "x", "retry": {True: ["exit_code"]}},
        "retry",
        "a name must be a string, not true; write it in",
    ),
    ({"entry_point": "x", "n" * 100_000: 1}, "n" * 60 + "...", "unknown field"),
    ({"entry_point": "x", "a\nb": 1}, "a\\nb", "unknown field"),
    ({"entry_point": "x", "metadata": {"a": [1e15] * 20_000}}, None, "at most 262,144 are accepted"),
]


def refusal(call: Any, longest: int = 700) -> TrainshedError:
    with pytest.raises(TrainshedError) as refused:
        call()
    error = refused.value
    assert error.exit_code is ExitCode.BAD_INPUT
    assert "hunter2" not in str(error)
    assert len(str(error)) < longest
    return error


def with_entry_point(raw: object) -> object:
    needs_one = isinstance(raw, dict) and "entry_point" not in raw
    return {"entry_point": "x", **raw} if needs_one and isinstance(raw, dict) else raw


@pytest.mark.parametrize(("data", "path", "message"), JSON, ids=lambda part: repr(part)[:60])
def test_bad_json_is_refused_by_path(data: bytes, path: str | None, message: str) -> None:
    error = refusal(lambda: run_config(with_entry_point(parse_json(data))))
    assert (error.path, message in error.message) == (path, True), error


@pytest.mark.parametrize(("data", "path", "message"), YAML, ids=lambda part: repr(part)[:60])
def test_bad_yaml_is_refused_by_path_or_line(data: bytes, path: str | None, message: str) -> None:
    error = refusal(lambda: run_config(with_entry_point(parse_yaml(data))))
    assert (error.path, message in error.message) == (path, True), error


@pytest.mark.parametrize(("raw", "path", "message"), PYTHON, ids=lambda part: repr(part)[:60])
def test_a_bad_value_is_refused_by_path(raw: object, path: str | None, message: str) -> None:
    error = refusal(lambda: run_config(raw))
    assert (error.path, message in error.message) == (path, True), error


def test_all_that_is_wrong_is_told_at_once_each_place_once() -> None:
    raw = {
        "priority": math.inf, "nosuch": 1, "arguments": ["--password", "hunter2", 5, None], "labels": {"a=b": 1, "c": 2},
        "environment": {"HF_TOKEN": "hunter2", "A": 1, "TRAINSHED_NODE": "x"}, "resources": {"gpus": {"requested": -1, "all": 1}},
        "metadata": {"worker": {"module": "", "script": "x", "arguments": "x", "use_grpc": True}, "password": "hunter2"},
        "stop": None, "retry": {"on": ["oom", "exit_code", "never"]}, "secrets": {"A": "hunter2", "B": {"file": ""}},
    }  # fmt: skip
    error = refusal(lambda: run_config(raw), longest=4000)
    assert sorted(str(wrong.path) for wrong in error.errors) == sorted([
        "priority", "nosuch", "arguments[1]", "arguments[2]", "arguments[3]", "labels.a=b", "labels.c",
        "environment.HF_TOKEN", "environment.A", "environment.TRAINSHED_NODE", "resources.gpus.requested",
        "resources.gpus.all", "metadata.worker.module", "metadata.worker.arguments", "metadata.worker",
        "metadata.password", "stop", "retry.on[0]", "retry.on[2]", "secrets.A", "secrets.B.file",
    ])  # fmt: skip
    assert (error.path, error.message) == (error.errors[0].path, error.errors[0].message)


def test_of_very_many_the_first_50_are_told_and_how_many_more() -> None:
    raw = {"arguments": list(range(70)), "labels": dict.fromkeys(map(str, range(60)), 1), "entry_point": ""}
    error = refusal(lambda: run_config(raw), longest=9000)
    assert (len(error.errors), error.more) == (50, 81)
    assert str(error).startswith("131 things are wrong:\n  arguments[0]: ")
    assert str(error).endswith("\n  and 81 more")


def test_too_much_is_told_apart_from_wrong() -> None:
    assert refusal(lambda: parse_json(b" " * 300_000)).code is ErrorCode.TOO_LARGE
    assert refusal(lambda: run_config({"entry_point": "x" * 300_000})).code is ErrorCode.TOO_LARGE
    assert refusal(lambda: parse_json(b"{")).code is ErrorCode.INVALID


def test_a_loop_of_python_objects_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["metadata"] = loop
    assert "nested more than 64 deep" in refusal(lambda: run_config(loop)).message


def test_what_would_be_set_to_the_same_value_is_no_conflict() -> None:
    same = {"CUDA_VISIBLE_DEVICES": "", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "TRAINSHED_STATE_DIR": "/other"}
    assert run_config({"entry_point": "x", "environment": same}).environment == same
