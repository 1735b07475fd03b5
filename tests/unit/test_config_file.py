"""The file that -f names: what is one config, what are several, what is too much, and that all that is wrong is told."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from services.cli import config_file
from services.cli.config_file import read_configs
from trainshed_client.errors import ErrorCode, ExitCode, TrainshedError

ONE = b'{"entry_point": "x", "priority": 1}'
TWO = b'{"entry_point": "x", "priority": 2}'


def read(data: bytes) -> tuple[list[dict[str, Any]], list[str]]:
    return read_configs("-", lambda: data)


@pytest.mark.parametrize(
    "data", [ONE + b"\n" + TWO, b"\n" + ONE + b"\r\n\n" + TWO + b"\n", ONE + b" \n" + TWO]
)
def test_standard_input_may_be_json_lines(data: bytes) -> None:
    configs, places = read(data)
    assert [config["priority"] for config in configs] == [1, 2]
    assert len(places) == 2
    assert places[0].startswith("stdin, line ")


@pytest.mark.parametrize(
    "data",
    [
        ONE,
        b"\n" + ONE + b"\n\n",
        ONE.replace(b", ", b",\n"),
        b'{\n"entry_point": "x", "priority": 1}\n',
        b"entry_point: x\npriority: 1\n",
        b"# a comment\nentry_point: x\npriority: 1",
    ],
)
def test_or_one_config_in_json_or_yaml(data: bytes) -> None:
    configs, places = read(data)
    assert configs == [{"entry_point": "x", "priority": 1}]
    assert not places


def test_a_file_without_a_name_for_it_may_be_json_lines_too_and_json_may_not(tmp_path: Path) -> None:
    (tmp_path / "sweep").write_bytes(ONE + b"\n" + TWO)
    assert len(read_configs(str(tmp_path / "sweep"))[0]) == 2
    (tmp_path / "sweep.json").write_bytes(ONE + b"\n" + TWO)
    with pytest.raises(TrainshedError, match="this is not JSON: Extra data"):
        read_configs(str(tmp_path / "sweep.json"))


def refusal(call: Any) -> TrainshedError:
    with pytest.raises(TrainshedError) as refused:
        call()
    assert refused.value.exit_code is ExitCode.BAD_INPUT
    return refused.value


def test_all_that_is_wrong_in_a_file_is_told_with_what_a_gateway_would_find() -> None:
    text = b"priority: high\nmetadata: {a: on, api_key: k}\nresources: {cpus: 0, memory_mb: 1_0}\nafter: [ppo]\nnosuch: 1"
    error = refusal(lambda: read(text))
    assert [wrong.path for wrong in error.errors] == [
        "stdin: metadata.a",
        "stdin: resources.memory_mb",
        "stdin: priority",
        "stdin: resources.cpus",
        "stdin: nosuch",
        "stdin: entry_point",
        "stdin: metadata.api_key",
    ]


def test_of_json_lines_each_with_its_line() -> None:
    lines = b'{"entry_point": "x", "priority": NaN}\n{"entry_point": "x"}\n{"entry_point": \n{"entry_point": "x", "cpus": 1}\n[]'
    error = refusal(lambda: read(lines))
    assert [wrong.path for wrong in error.errors] == [
        "stdin, line 1: priority",
        "stdin, line 3",
        "stdin, line 4: cpus",
        "stdin, line 5",
    ]


def test_what_is_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for name in ("run.yaml", "run.json", "sweep.jsonl", "run"):
        file = tmp_path / name
        with file.open("wb") as opened:
            opened.truncate(3_000_000_000)
        error = refusal(lambda file=file: read_configs(str(file)))
        assert error.code is ErrorCode.TOO_LARGE
        assert f"{name} has 3,000,000,000 bytes" in error.message
    error = refusal(lambda: read_configs("/dev/zero"))
    assert "/dev/zero has more than 16,777,216 bytes" in error.message


def test_a_pipe_is_read_within_the_same_bounds(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write(data: bytes) -> threading.Thread:
        def run() -> None:
            try:
                pipe.write_bytes(data)
            except BrokenPipeError:
                pass

        writer = threading.Thread(target=run)
        writer.start()
        return writer

    writer = write(ONE)
    assert read_configs(str(pipe))[0][0]["priority"] == 1
    writer.join()
    writer = write(b" " * (config_file.MOST_BYTES + 1))
    assert "more than 16,777,216 bytes" in refusal(lambda: read_configs(str(pipe))).message
    writer.join()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_whoever_waits_for_a_pipe_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config_file, "_NOTE_AFTER_S", 0.0)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    waits = threading.Event()

    def heard(text: str) -> None:
        print(text)
        waits.set()

    monkeypatch.setattr(config_file, "note", heard)
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.append(read_configs(str(pipe))))
    reader.start()
    assert waits.wait(30)
    pipe.write_bytes(ONE)
    reader.join(30)
    assert found[0][0][0]["priority"] == 1
    assert f"waiting for a run config from {pipe}" in capsys.readouterr().out


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "cannot be read (is a directory)" in refusal(lambda: read_configs(str(tmp_path))).message
