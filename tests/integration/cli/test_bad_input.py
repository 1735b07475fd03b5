"""Bad input, end to end: as raw bytes on the API's subjects, as files and as options of the command line.

Each is refused by the field or the line that is wrong, with exit code 2 (or an error's code and path), and the log's end
stays where it was. What each field takes is tests/unit/test_config_refusals.py's.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.raw import RawNats
from tests.support.stack import Stack
from trainshed_client import subjects
from trainshed_client.endpoint import read_endpoint
from trainshed_client.nats_client import SafeClient, connect

SECRET = "hunter2"
"""The value of every credential here; it must not come back."""


class Bad(NamedTuple):
    """One bad input.

    ``how``: api (run.submit), batch (run.submit_batch), the suffix of a file, or option. ``path``: the field that the
    error names; ``says``: what its message has.
    """

    name: str
    how: str
    data: Any
    path: str | None
    says: str
    code: str = "invalid"


def fields(text: str) -> bytes:
    """A config that would be accepted but for these fields."""
    return b'{"entry_point": "/bin/true", ' + text.encode() + b"}"


def lines(text: str) -> bytes:
    """The same, in YAML."""
    return b"entry_point: /bin/true\n" + text.encode()


BOMB = b"a: &a [x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (97 + n, 97 + n, b", ".join([b"*%c" % (96 + n)] * 9)) for n in range(1, 9)
)
OPEN = b"[" * 100_000
MIB_10 = 10 * 1024 * 1024

API = [
    # No JSON, or no object
    Bad("no JSON", "api", b"entry_point: /bin/true", None, "not JSON: Expecting value (line 1, column 1)"),
    Bad("cut off", "api", b'{"entry_point": \n', None, "not JSON: Expecting value (line 2, column 1)"),
    Bad("more after it", "api", b'{"entry_point": "x"} x', None, "not JSON: Extra data (line 1, column 22)"),
    Bad("a list", "api", b'[{"entry_point": "x"}]', None, "must be an object"),
    Bad("a string", "api", b'"/bin/true"', None, "must be an object"),
    Bad("null", "api", b"null", None, "must be an object"),
    Bad("nothing", "api", b"", "entry_point", "required"),
    Bad("no worker", "api", b'{"run_name": "x"}', "entry_point", "required"),
    Bad("no UTF-8", "api", fields('"run_name": "').replace(b"}", b'\xff"}'), None, "not UTF-8: byte 42 (line 1)"),
    Bad("a nul byte", "api", fields('"run_name": "a\0b"'), None, "(line 1) is nul"),
    Bad("900 kB", "api", fields(f'"metadata": {{"x": "{"y" * 900_000}"}}'), None, "262,144", "too_large"),
    Bad("deep", "api", fields(f'"metadata": {{"x": {"[" * 70}{"]" * 70}}}'), None, "nested more than"),
    Bad("very deep", "api", OPEN, None, "nested more than"),
    # Numbers
    Bad("NaN", "api", fields('"metadata": {"x": NaN}'), "metadata.x", "NaN"),
    Bad("Infinity", "api", fields('"stop": {"grace_s": Infinity}'), "stop.grace_s", "finite"),
    Bad("1e999", "api", fields('"stop": {"grace_s": 1e999}'), "stop.grace_s", "finite"),
    Bad("2^53", "api", fields('"priority": 9007199254740992'), "priority", "2^53"),
    Bad("5.0", "api", fields('"resources": {"cpus": 5.0}'), "resources.cpus", "write 5"),
    Bad("true", "api", fields('"priority": true'), "priority", "must be an integer, not true"),
    Bad("a string for a number", "api", fields('"resources": {"gpus": {"requested": "1"}}'), "resources.gpus.requested", "not a string"),
    Bad("null for a number", "api", fields('"priority": null'), "priority", "not null"),
    Bad("negative GPUs", "api", fields('"resources": {"gpus": {"requested": -1}}'), "resources.gpus.requested", "at least 0"),
    Bad("no CPUs", "api", fields('"resources": {"cpus": 0}'), "resources.cpus", "at least 1"),
    Bad("no attempt", "api", fields('"retry": {"max_attempts": 0}'), "retry.max_attempts", "at least 1"),
    Bad("no time", "api", fields('"schedule": {"max_duration_seconds": 0}'), "schedule.max_duration_seconds", "greater than 0"),
    # More than any node has: two GPUs, four CPUs, 4,096 MB
    Bad("more GPUs", "api", fields('"resources": {"gpus": {"requested": 3}}'), "resources.gpus.requested", "3"),
    Bad("more CPUs", "api", fields('"resources": {"cpus": 5}'), "resources.cpus", "5"),
    Bad("more memory", "api", fields('"resources": {"memory_mb": 4097}'), "resources.memory_mb", "4097"),
    # Names
    Bad("unknown field", "api", fields('"gpus": 1'), "gpus", "did you mean resources.gpus?"),
    Bad("unknown field inside", "api", fields('"resources": {"gpu": 1}'), "resources.gpu", "did you mean resources.gpus?"),
    Bad("a key twice", "api", fields('"priority": 1,\n"priority": 2'), "priority", "given twice, on lines 1 and 2"),
    Bad("a key twice inside", "api", fields('"environment": {"A": "1", "A": "1"}'), "environment.A", "given twice, on line 1"),
    Bad("a name with =", "api", fields('"environment": {"A=B": "c"}'), "environment.A=B", 'must not hold "="'),
    Bad("an empty name", "api", fields('"environment": {"": "c"}'), 'environment.""', "must not be empty"),
    # Strings
    Bad("an escaped nul", "api", fields('"arguments": ["a\\u0000b"]'), "arguments[0]", "nul"),
    Bad("half a character", "api", fields('"run_name": "\\ud800"'), "run_name", "half a character"),
    Bad("a number for a string", "api", fields('"arguments": ["--seed", 1]'), "arguments[1]", "write it in quotes"),
    Bad("a string for a list", "api", fields('"arguments": "--seed 1"'), "arguments", "must be a list"),
    Bad("a long name", "api", fields(f'"run_name": "{"x" * 121}"'), "run_name", "at most 120"),
    Bad("an empty program", "api", b'{"entry_point": ""}', "entry_point", "must not be empty"),
    Bad("a relative folder", "api", fields('"working_dir": "here"'), "working_dir", "absolute path"),
    Bad("no such signal", "api", fields('"stop": {"signal": "TERM"}'), "stop.signal", "did you mean SIGTERM?"),
    Bad("no such source", "api", fields('"heartbeat": {"source": "pulse"}'), "heartbeat.source", "process, output, notify"),
    Bad("no such reason", "api", fields('"retry": {"on": ["oom"]}'), "retry.on[0]", "exit_code"),
    Bad("no run id", "api", fields('"after": ["ppo"]'), "after[0]", "run id"),
    Bad("no such run", "api", fields(f'"after": ["{"a" * 26}"]'), "after[0]", "no run"),
    Bad("two workers", "api", fields('"metadata": {"worker": {"module": "a", "script": "b"}}'), "metadata.worker", "both are given"),
    # Credentials
    Bad("an API key", "api", fields(f'"environment": {{"WANDB_API_KEY": "{SECRET}"}}'), "environment.WANDB_API_KEY", '"secrets"'),
    Bad("a token", "api", fields(f'"environment": {{"HF_TOKEN": "{SECRET}"}}'), "environment.HF_TOKEN", '"secrets"'),
    Bad("a password", "api", fields(f'"metadata": {{"db": [{{"Password": "{SECRET}"}}]}}'), "metadata.db[0].Password", "credential"),
    Bad("a key in arguments", "api", fields(f'"arguments": ["--api-key", "{SECRET}"]'), "arguments[1]", '"secrets": {"API_KEY"'),
    Bad("a URL with a password", "api", fields(f'"arguments": ["postgres://a:{SECRET}@db/x"]'), "arguments[0]", "credential"),
    Bad("a key of an older worker", "api", fields(f'"metadata": {{"worker": {{"script": "x", "arguments": ["--api-key={SECRET}"]}}}}'), "metadata.worker.arguments[0]", "credential"),
    Bad("a secret's value", "api", fields(f'"secrets": {{"A": "{SECRET}"}}'), "secrets.A", "never the value itself"),
    Bad("several", "api", fields('"priority": 1.5, "labels": {"a": 1, "b": 2}, "resources": {"cpus": 0}'), "priority", "an integer"),
    # Several at once
    Bad("no list", "batch", b'{"runs": {}}', "runs", "must be list"),
    Bad("no run", "batch", b'{"runs": []}', "runs", "at least one"),
    Bad("another field", "batch", b'{"run": []}', "run", "unknown field"),
    Bad("the second", "batch", b'{"runs": [%s, %s]}' % (fields('"priority": 5'), fields('"cpus": 1')), "runs[1].cpus", "unknown field"),
    Bad("the second too large", "batch", b'{"runs": [%s, %s]}' % (fields('"priority": 5'), fields('"resources": {"cpus": 9}')), "runs[1].resources.cpus", "9"),
    Bad("1,001", "batch", b'{"runs": [%s]}' % b", ".join([fields('"priority": 5')] * 1001), "runs", "at most 1000", "too_large"),
]  # fmt: skip

FILES = [
    Bad("no JSON", "json", b'{"entry_point": \n', None, "not JSON: Expecting value (line 2, column 1)"),
    Bad("a list", "json", b'[{"entry_point": "x"}]', None, "must be an object"),
    Bad("nothing", "json", b"", None, "not JSON"),
    Bad("no UTF-8", "json", b'{"entry_point":\n "\xff"}', None, "not UTF-8: byte 18 (line 2)"),
    Bad("a nul byte", "json", b'{"entry_point": "a\0"}', None, "(line 1) is nul"),
    Bad("NaN", "json", fields('"metadata": {"x": NaN}'), "metadata.x", "NaN"),
    Bad("a key twice", "json", fields('"priority": 1,\n"priority": 2'), "priority", "given twice, on lines 1 and 2"),
    Bad("10 MB", "json", fields(f'"run_name": "{"x" * MIB_10}"'), None, "262,144"),
    Bad("very deep", "json", OPEN, None, "nested more than 64 deep"),
    Bad("unknown field", "json", fields('"gpus": 1'), "gpus", "did you mean resources.gpus?"),
    Bad("more GPUs", "json", fields('"resources": {"gpus": {"requested": 3}}'), "resources.gpus.requested", "3"),
    Bad("a token", "json", fields(f'"environment": {{"HF_TOKEN": "{SECRET}"}}'), "environment.HF_TOKEN", '"secrets"'),
    Bad("no YAML", "yaml", lines("a: b: c"), None, "not YAML: mapping values are not allowed in this context (line 2, column 5)"),
    Bad("not closed", "yaml", lines("arguments: [a, b"), None, "not YAML"),
    Bad("a tab", "yaml", lines("arguments:\n\t- b"), None, "line 3"),
    Bad("nothing", "yaml", b"", None, "must be an object"),
    Bad("a list", "yaml", b"- entry_point: x", None, "must be an object"),
    Bad("no UTF-8", "yaml", b"entry_point: x\nrun_name: \xff", None, "not UTF-8: byte 25 (line 2)"),
    Bad("a nul byte", "yaml", lines("run_name: a\0b"), None, "(line 2) is nul"),
    Bad("a control character", "yaml", lines("run_name: a\x01b"), None, "(line 2)"),
    Bad("a bomb", "yaml", BOMB, "a", "anchors (&a) are not accepted; write the value out (line 1)"),
    Bad("a merge key", "yaml", lines("resources:\n  <<: {cpus: 1}"), "resources", "(line 3)"),
    Bad("a tag", "yaml", lines('run_name: !!python/object/apply:os.system ["true"]'), "run_name", "are not accepted"),
    Bad("two documents", "yaml", b"entry_point: x\n---\nentry_point: y", None, "a second YAML document begins"),
    Bad("10 MB", "yaml", lines(f"run_name: {'x' * MIB_10}"), None, "262,144"),
    Bad("very deep", "yaml", OPEN, None, "nested more than 64 deep"),
    Bad("a key twice", "yaml", lines("priority: 1\nlabels: {}\npriority: 2"), "priority", "given twice, on lines 2 and 4"),
    Bad("a key twice inside", "yaml", lines("environment:\n  A: x\n  'A': y"), "environment.A", "given twice, on lines 3 and 4"),
    Bad("on", "yaml", lines("metadata: {x: on}"), "metadata.x", 'write it in quotes, "on", or true (line 2)'),
    Bad("no", "yaml", lines("metadata:\n  debug: no"), "metadata.debug", 'write it in quotes, "no", or false (line 3)'),
    Bad("null in arguments", "yaml", lines("arguments: [--seed, ~]"), "arguments[1]", "must be a string, not null"),
    Bad("1e400 for a number", "yaml", lines("stop: {grace_s: 1e400}"), "stop.grace_s", "must be a finite number"),
    Bad("a date", "yaml", lines("metadata: {day: 2026-01-31}"), "metadata.day", "write it in quotes"),
    Bad("1:30:00", "yaml", lines("schedule: {max_duration_seconds: 1:30:00}"), "schedule.max_duration_seconds", "no plain decimal"),
    Bad("010", "yaml", lines("priority: 010"), "priority", "no plain decimal number"),
    Bad(".nan", "yaml", lines("stop: {grace_s: .nan}"), "stop.grace_s", "JSON has no .nan"),
    Bad("more memory", "yaml", lines("resources: {memory_mb: 4097}"), "resources.memory_mb", "4097"),
    Bad("an API key", "yaml", lines(f"environment: {{WANDB_API_KEY: {SECRET}}}"), "environment.WANDB_API_KEY", '"secrets"'),
    Bad("the second line", "jsonl", fields('"priority": 5') + b"\n{", None, "line 2: this is not JSON"),
    Bad("a list", "jsonl", fields('"priority": 5') + b"\n[]", None, "line 2: a run config must be an object"),
    Bad("a key twice", "jsonl", b"\n" + fields('"priority": 1, "priority": 2'), "priority", "line 2"),
    Bad("negative GPUs", "jsonl", fields('"priority": 5') + b"\n" + fields('"resources": {"gpus": {"requested": -1}}'), "line 2: resources.gpus.requested", "at least 0"),
    Bad("nothing", "jsonl", b"\n\n", None, "holds no run config"),
    Bad("a line of 10 MB", "jsonl", fields('"priority": 5') + b"\n" + fields(f'"run_name": "{"x" * MIB_10}"'), None, "line 2"),
    Bad("1,001 lines", "jsonl", b"\n".join([fields('"priority": 5')] * 1001), None, "at most 1000"),
    Bad("--gpus -1", "option", ["--gpus", "-1"], "resources.gpus.requested", "at least 0"),
    Bad("--gpus 3", "option", ["--gpus", "3"], "resources.gpus.requested", "3"),
    Bad("--cpus x", "option", ["--cpus", "x"], None, "'--cpus'"),
    Bad("--memory", "option", ["--memory", "much"], None, "--memory"),
    Bad("--retries", "option", ["--retries", "-2"], "retry.max_attempts", "at least 1"),
    Bad("--time-limit", "option", ["--time-limit", "nan"], None, "--time-limit"),
    Bad("--heartbeat", "option", ["--heartbeat", "pulse"], "heartbeat.source", "notify"),
    Bad("--label", "option", ["--label", "x"], None, "--label NAME=VALUE"),
    Bad("--env of a token", "option", ["--env", f"HF_TOKEN={SECRET}"], "environment.HF_TOKEN", '"secrets"'),
    Bad("--env not set", "option", ["--env", "NOT_SET_HERE"], None, "NOT_SET_HERE"),
    Bad("--secret with its value", "option", ["--secret", f"A={SECRET}"], None, "never the value"),
]  # fmt: skip


def title(bad: Bad) -> str:
    return f"{bad.how}: {bad.name}"


@pytest.fixture
async def nc(stack: Stack) -> AsyncIterator[SafeClient]:
    """Who started the stack, as a program of his own connects."""
    client = await connect(read_endpoint(stack.state_dir), name="test")
    try:
        yield client
    finally:
        await client.close()


async def log_end(nc: SafeClient) -> int:
    """The sequence of the last event."""
    return int(json.loads((await nc.request(subjects.api("health"), b"", timeout=10)).data)["last_seq"])


@pytest.mark.parametrize("bad", [*API, *FILES], ids=title)
async def test_bad_input_is_refused_by_field_or_line_and_appends_nothing(
    bad: Bad, stack: Stack, nc: SafeClient, tmp_path: Path
) -> None:
    before = await log_end(nc)
    if bad.how in ("api", "batch"):
        said = await ask(nc, bad)
    else:
        said = await asyncio.to_thread(command, stack, bad, tmp_path)
    assert SECRET not in said
    assert len(said) < 1500
    assert await log_end(nc) == before


WRONG = b'{"entry_point": "x", "priority": 1.5, "priority": "high", "metadata": {"x": NaN, "db": {"password": "hunter2"}}, "resources": {"cpus": 0}}'
PATHS = ["metadata.x", "priority", "resources.cpus", "metadata.db.password"]


async def test_all_that_is_wrong_is_told_at_once_however_it_is_sent(nc: SafeClient) -> None:
    async def paths(call: str, body: bytes) -> list[str]:
        error = json.loads((await nc.request(subjects.api(call), body, timeout=10)).data)["error"]
        assert (error["path"], error["message"]) == tuple(error["errors"][0].values())
        assert SECRET not in str(error)
        return [one["path"] for one in error["errors"]]

    before = await log_end(nc)
    assert await paths("run.submit", WRONG) == PATHS
    assert await paths("run.check", WRONG) == PATHS
    assert await paths("run.submit", b'{"config": %s, "caller_path": "/bin"}' % WRONG) == PATHS
    batch = b'{"runs": [%s, %s, %s]}' % (fields('"cpus": 1'), fields('"priority": 5'), WRONG)
    assert sorted(await paths("run.submit_batch", batch)) == sorted(
        ["runs[0].cpus", *(f"runs[2].{path}" for path in PATHS)]
    )
    too_much = fields('"resources": {"cpus": 99, "memory_mb": 1000000, "gpus": {"requested": 99}}')
    assert await paths("run.submit", too_much) == [
        "resources.gpus.requested",
        "resources.cpus",
        "resources.memory_mb",
    ]
    unknown = fields(f'"after": ["{"a" * 26}", "{"b" * 26}"]')
    assert await paths("run.submit", unknown) == ["after[0]", "after[1]"]
    many = fields(f'"arguments": {[1] * 70}')
    error = json.loads((await nc.request(subjects.api("run.submit"), many, timeout=10)).data)["error"]
    assert (len(error["errors"]), error["more"]) == (50, 20)
    assert await log_end(nc) == before


def test_the_command_line_prints_all_of_it(stack: Stack, tmp_path: Path) -> None:
    config = (
        b'{"entry_point": "x", "priority": "5", "after": ["nosuchrun", "%s"], "resources": {"cpus": 0}}'
        % (b"a" * 26)
    )
    told = stack.trainshed("submit", "-f", "-", stdin=config, code=2).stderr.splitlines()
    assert told[0] == "Error: 3 things are wrong:"
    assert [line.split(": ")[0] for line in told[1:4]] == ["  after[0]", "  priority", "  resources.cpus"]
    assert "no run has the id or the name 'nosuchrun'" in told[1]
    lines = b"\n".join(
        [b'{"entry_point": "x", "priority": 5}', config, b'{"entry_point": "", "priority": 5}']
    )
    told = stack.trainshed("submit", "-f", "-", stdin=lines, code=2).stderr.splitlines()
    assert "stdin, line 2: after[0]" in told[1], told


def test_json_lines_on_standard_input_are_a_batch(stack: Stack) -> None:
    lines = [json.dumps({"entry_point": "/bin/true", "submission_key": f"{uuid.uuid4()}"}) for _ in range(3)]
    done = stack.trainshed("submit", "--json", "-f", "-", stdin="\n".join(lines).encode())
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["created"] for answer in answers] == [True] * 3
    assert len({answer["run_id"] for answer in answers}) == 3


async def ask(nc: SafeClient, bad: Bad) -> str:
    """Send it as it is; the answer."""
    call = {"api": "run.submit", "batch": "run.submit_batch"}[bad.how]
    answer = (await nc.request(subjects.api(call), bad.data, timeout=10)).data
    error = json.loads(answer)["error"]
    assert (error["code"], error.get("path")) == (bad.code, bad.path), error
    assert bad.says in error["message"], error
    return answer.decode()


def command(stack: Stack, bad: Bad, folder: Path) -> str:
    """Give it to `trainshed submit`; what it says."""
    if bad.how == "option":
        words = [*bad.data, "--", "true"]
    else:
        file = folder / f"config.{bad.how}"
        file.write_bytes(bad.data)
        words = ["-f", str(file)]
    done = stack.trainshed("submit", *words, code=2)
    assert done.stdout == b""
    assert bad.says in done.stderr, done.stderr
    if bad.path is not None:
        assert f"{bad.path}: " in done.stderr
    return str(done.stderr)


def test_the_table_is_long_enough() -> None:
    names = [title(bad) for bad in (*API, *FILES)]
    assert len(set(names)) == len(names) > 40


async def test_the_configs_of_the_table_are_accepted_without_what_is_wrong(
    stack: Stack, nc: SafeClient
) -> None:
    before = await log_end(nc)
    key = f'"submission_key": "{uuid.uuid4()}"'
    answer = json.loads((await nc.request(subjects.api("run.submit"), fields(key), timeout=10)).data)
    assert answer["created"] is True
    assert await log_end(nc) > before


def test_what_yaml_readers_disagree_on_is_the_text_as_typed_where_text_is_taken(
    stack: Stack, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    key = uuid.uuid4()
    file.write_bytes(
        lines(
            f"arguments: [--lr, 1e-4, on, no, 1, 1:30, 012]\nrun_name: 1e-4\nsubmission_key: {key}\nmetadata: {{lr: 1e-4}}\n"
        )
    )
    answer = stack.trainshed("submit", "-f", str(file), json=True)
    config = stack.show(answer["run_id"])["config"]
    assert config["arguments"] == ["--lr", "1e-4", "on", "no", "1", "1:30", "012"]
    assert (config["run_name"], config["metadata"]) == ("1e-4", {"lr": 0.0001})


async def test_a_message_over_the_servers_limit_ends_its_connection_and_nothing_else(
    stack: Stack, nc: SafeClient
) -> None:
    before = await log_end(nc)
    with pytest.raises(ConnectionError):
        async with RawNats(read_endpoint(stack.state_dir)) as raw:
            await raw.publish(subjects.api("run.submit").encode(), b"x" * MIB_10)
    assert nc.is_connected
    assert await log_end(nc) == before
    answer = json.loads((await nc.request(subjects.api("health"), b"", timeout=10)).data)
    assert "error" not in answer
