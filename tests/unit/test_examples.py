"""The configs and scripts of examples/: they parse, would be accepted, and fit each other and their page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from events.config import RunConfig
from events.config_input import parse_json, parse_yaml
from events.decide import refuse_impossible
from tests.support.builders import Story
from tests.support.configs import digest_of, run_config
from tests.unit.test_docs import understood
from trainshed_client.errors import TrainshedError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
YAML = sorted(EXAMPLES.glob("*.yaml"))
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
SWEEP = EXAMPLES / "sweep.jsonl"


def configs() -> dict[str, RunConfig]:
    """Every config of the examples."""
    found = {path.name: run_config(parse_yaml(path.read_bytes())) for path in YAML}
    for number, line in enumerate(SWEEP.read_bytes().splitlines(), 1):
        found[f"{SWEEP.name}:{number}"] = run_config(parse_json(line))
    return found


def test_every_config_is_accepted_where_a_node_has_what_it_asks_for() -> None:
    log = Story()
    log.join(slots=2, cpus=8, memory_mb=16_000)
    assert len(YAML) >= 4
    for config in configs().values():
        refuse_impossible(log.state, config)
    small = Story()
    small.join(slots=1, cpus=8, memory_mb=16_000)
    with pytest.raises(TrainshedError) as refused:
        refuse_impossible(small.state, configs()["torchrun.yaml"])
    assert refused.value.path == "resources.gpus.requested"


def test_every_config_is_a_run_of_its_own_with_a_name_of_its_own() -> None:
    found = configs()
    assert len(found) == len(YAML) + 6
    assert len({digest_of(config).run_id for config in found.values()}) == len(found)
    assert len({config.name for config in found.values()}) == len(found)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_compiles(script: Path) -> None:
    compile(script.read_text(), script.name, "exec")


@pytest.mark.parametrize("name", [*(path.name for path in YAML), SWEEP.name])
def test_a_config_passes_options_that_its_script_takes(name: str) -> None:
    mine = [config for found, config in configs().items() if found.partition(":")[0] == name]
    assert mine
    for config in mine:
        scripts = [word for word in config.arguments if word.startswith("examples/")]
        assert len(scripts) == (name != "pipeline.yaml")
        for script in scripts:
            given = config.arguments[config.arguments.index(script) + 1 :]
            options = {word for word in given if word.startswith("--")}
            assert options
            assert options <= options_of(EXAMPLES.parent / script)


def options_of(script: Path) -> set[str]:
    """What its parser takes."""
    calls = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Call)]
    return {
        argument.value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


def test_the_page_of_the_examples_names_them_and_commands_that_exist() -> None:
    page = (EXAMPLES / "README.md").read_text()
    named = {word for word in re.findall(r"examples/[\w.]+", page)}
    there = {f"examples/{path.name}" for path in EXAMPLES.iterdir() if path.name != "__pycache__"}
    assert named <= there
    assert there - named == {"examples/README.md", "examples/demo.py", "examples/demo_screen.py"}
    commands = [line for line in page.splitlines() if line.startswith("trainshed ")]
    assert sum(" -f " in line for line in commands) == len(YAML) + 1
    assert len(commands) == len(YAML) + 3  # and the searches
    assert [line for line in commands if not understood(line)] == []
