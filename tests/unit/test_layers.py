"""What import-linter cannot say: which imports are allowed, rather than which are forbidden."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = {"subprocess", "multiprocessing", "pty", "asyncio.subprocess", "services.agent.shim"}
KNOW_PROCESSES = {"processes", "shim"}  # the door, and what is behind it


def imported(file: Path) -> set[str]:
    """Every module that a file names in an import, wherever in it, the names of a ``from`` import as well."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module), level=0):
                names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
            case ast.ImportFrom():
                raise AssertionError(f"{file}: relative imports are not used here")
    return names


def files_of(*folders: str) -> list[Path]:
    found = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    assert found, folders
    return found


SHIMS = [*files_of("services/agent/shim"), ROOT / "services/beneath.py", ROOT / "services/failpoints.py"]


@pytest.mark.parametrize("file", SHIMS, ids=lambda file: file.name)
def test_the_shim_imports_the_standard_library_alone(file: Path) -> None:
    others = {name for name in imported(file) if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {
        name
        for name in others
        if not f"{name}.".startswith(("services.agent.shim.", "services.failpoints.", "services.beneath."))
        and name not in ("services", "services.agent")
    } == set()


INTEGRATIONS = ROOT / "client/trainshed_client/integrations"
CALLBACKS = {
    INTEGRATIONS / "stable_baselines3.py": {"stable_baselines3"},
    INTEGRATIONS / "lightning.py": {"lightning", "pytorch_lightning"},
    INTEGRATIONS / "transformers.py": {"transformers"},
}


@pytest.mark.parametrize(
    "file", [file for file in files_of("client") if file not in CALLBACKS], ids=lambda file: file.name
)
def test_the_client_imports_nats_and_msgspec_alone(file: Path) -> None:
    # typing_extensions is for type checkers, which bring it; that nothing imports it at run time a bare Python shows.
    allowed = sys.stdlib_module_names | {"nats", "msgspec", "typing_extensions", "trainshed_client"}
    if "qt" in file.parts:
        allowed |= {"PySide6", "shiboken6"}
    assert {name for name in imported(file) if name.partition(".")[0] not in allowed} == set()


@pytest.mark.parametrize("file", CALLBACKS, ids=lambda file: file.name)
def test_a_callback_imports_its_framework_and_of_the_client_what_needs_nothing(file: Path) -> None:
    others = {one for one in imported(file) if one.partition(".")[0] not in sys.stdlib_module_names}
    ours = {one for one in others if one.startswith("trainshed_client")}
    assert {one.partition(".")[0] for one in others - ours} == CALLBACKS[file]
    allowed = ("trainshed_client.notify", "trainshed_client.integrations.reporting")
    assert {one for one in ours if one != "trainshed_client" and not one.startswith(allowed)} == set()


@pytest.mark.parametrize(
    "file", files_of("services/agent"), ids=lambda file: str(file.relative_to(ROOT / "services/agent"))
)
def test_one_room_of_the_agent_knows_processes_and_the_shim(file: Path) -> None:
    known = {name for name in imported(file) if any(f"{name}.".startswith(f"{what}.") for what in PROCESSES)}
    assert known == set() or file.relative_to(ROOT / "services/agent").parts[0] in KNOW_PROCESSES


@pytest.mark.parametrize("file", files_of("services/scheduling"), ids=lambda file: file.name)
def test_scheduling_imports_the_core_alone(file: Path) -> None:
    allowed = sys.stdlib_module_names | {"msgspec", "sortedcontainers", "events", "trainshed_client"}
    others = {name for name in imported(file) if name.partition(".")[0] not in allowed}
    assert {name for name in others if not f"{name}.".startswith("services.scheduling.")} == set()


@pytest.mark.parametrize("file", files_of("bench"), ids=lambda file: file.name)
def test_bench_measures_without_the_tests(file: Path) -> None:
    assert {name for name in imported(file) if name.partition(".")[0] == "tests"} == set()


def test_the_life_of_an_attempt_names_every_file_of_the_agent() -> None:
    agent = ROOT / "services/agent"
    door = ast.get_docstring(ast.parse((agent / "agent.py").read_bytes())) or ""
    named = set(re.findall(r"`([\w/]+\.py)`", door))
    there = {str(file.relative_to(agent)) for file in agent.rglob("*.py") if file.name != "__init__.py"}
    assert named == {name for name in there if not name.startswith("shim/")} - {"agent.py"}
