"""The pins, the two distributions and the Makefile agree, and name no machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def project(folder: str) -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    return content


def wanted(lines: list[str]) -> dict[str, Requirement]:
    """Requirements by their name, comments and options left out."""
    parsed = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def pins(lock: Path) -> dict[str, str]:
    return {
        canonicalize_name(name): version
        for name, version in re.findall(r"(?m)^(\S+)==(\S+) \\$", lock.read_text())
    }


def test_the_input_of_the_pins_is_what_the_two_distributions_declare() -> None:
    declared = wanted(project(".")["dependencies"] + project("client")["dependencies"])
    assert str(declared.pop("trainshed-client")) == f"trainshed-client=={project('client')['version']}"
    read = wanted((ROOT / "requirements/run.in").read_text().splitlines())
    build = {"hatchling", "editables"}
    assert {name: str(requirement) for name, requirement in read.items() if name not in build} == {
        name: str(requirement) for name, requirement in declared.items()
    }


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_requirement_is_pinned_to_a_version_that_it_allows_and_hashed(lock: Path) -> None:
    pinned = pins(lock)
    for name, requirement in wanted(lock.with_suffix(".in").read_text().splitlines()).items():
        assert requirement.specifier.contains(pinned[name]), requirement
    blocks = re.split(r"(?m)^(?=\S+==)", lock.read_text())[1:]
    assert len(blocks) == len(pinned)
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_the_pins_name_no_host_and_no_folder(lock: Path) -> None:
    assert re.findall(r"(?m)^.*(?:/|-index|find-links).*$", lock.read_text()) == []


def test_the_sets_agree_where_they_pin_the_same() -> None:
    together: dict[str, set[str]] = {}
    for lock in LOCKS:
        if lock.stem == "client":
            continue  # the oldest that the client takes
        for name, version in pins(lock).items():
            together.setdefault(name, set()).add(version)
    assert {name: versions for name, versions in together.items() if len(versions) > 1} == {}


def test_the_distributions_bear_one_version_and_licence() -> None:
    both = [project("."), project("client")]
    assert len({(each["version"], each["license"]) for each in both}) == 1
    assert [each["requires-python"] for each in both] == [
        ">=3.11",
        ">=3.9",
    ]  # the client is for any environment
    assert "Apache License" in (ROOT / "LICENSE").read_text()
