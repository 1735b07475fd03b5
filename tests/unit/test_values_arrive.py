"""What is accepted arrives at the worker as it was sent, through the log and the shim; anything else is refused."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from events.config import stored_config
from events.config_input import accepted_config, parse_json, parse_yaml
from services.agent.shim import launch
from services.agent.shim.launch import Command
from trainshed_client.errors import TrainshedError
from trainshed_client.json_limits import json_value

odd = st.sampled_from(
    [
        "1e-4",
        "on",
        "0x1f",
        "",
        " ",
        "~",
        "null",
        "é",
        "\u2028",
        "\x1b[0m",
        "a\nb",
        "{{",
        "'",
        '"',
        "\\",
        "--x=1",
        "012",
    ]
)
text = odd | st.text(st.characters(max_codepoint=0xFFFF, exclude_characters="{"), max_size=8)
names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6).map("x".__add__)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
configs = st.fixed_dictionaries(
    {
        "entry_point": st.just("/usr/bin/env"),
        "arguments": st.lists(text, max_size=4),
        "environment": st.dictionaries(names, text, max_size=4),
    },
    optional={
        "metadata": st.fixed_dictionaries(
            {
                "worker": st.fixed_dictionaries(
                    {"script": st.just("train.py"), "arguments": st.lists(text, max_size=3)},
                    optional={"config": st.dictionaries(text, values, max_size=4), "use_grpc": values},
                )
            }
        )
    },
)


def started(accepted: bytes, folder: str) -> tuple[Command, Any]:
    """What the shim starts for a stored config, and the older worker's config as it reads it."""
    sent = json.loads(msgspec.json.encode(stored_config(msgspec.Raw(accepted)).launch()))
    intent = launch.read_intent(
        {
            "boot_id": "b", "run_id": "r", "attempt": 1, "node": "n", "log_id": "l", "launch": sent,
            "run_dir": folder, "output_dir": folder, "sockets": folder,
        }
    )  # fmt: skip
    before = os.getcwd()
    os.chdir(folder)
    try:
        command = launch.command(intent, {"PATH": "/usr/bin:/bin"}, folder, "/s")
    finally:
        os.chdir(before)
    file = Path(folder, launch.CONFIG_FILE)
    return command, json.loads(file.read_bytes()) if file.exists() else None


def written(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The config as each way to hand it over has it. Raises TrainshedError."""
    handed = json_value(config)
    assert isinstance(handed, dict)
    data = json.dumps(config).encode()
    return [handed, parse_json(data), parse_yaml(data)]  # type: ignore[list-item]


@given(configs)
def test_a_config_is_refused_or_what_was_sent_is_what_the_worker_gets(config: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            ways = written(config)
            accepted = [accepted_config(way, allow_credentials=True) for way in ways]
        except TrainshedError as error:
            assert all(wrong.message for wrong in error.errors)
            return
        assert len({one.digest for one in accepted}) == 1
        command, worker_config = started(accepted[0].stored, folder)
        arguments = config["arguments"]
        if worker := config.get("metadata", {}).get("worker"):
            given = [] if worker.get("config") is None else ["--config", f"{folder}/{launch.CONFIG_FILE}"]
            arguments = ["train.py", *worker["arguments"], *given]
            assert accepted[0].config.metadata == config["metadata"]
            if given:
                sent = {**worker["config"], "run_id": "r"}
                assert json.dumps(worker_config, sort_keys=True) == json.dumps(sent, sort_keys=True)
        assert command.argv[1:] == arguments
        assert {name: command.environment[name] for name in config["environment"]} == config["environment"]
