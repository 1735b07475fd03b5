"""README and docs name only what exists: every path, every link, every command and its options.

Owns that check; knows nothing of what the pages say otherwise.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from services.cli.main import VERBS, main
from services.settings import markdown_table
from trainshed_client import asking, connection, subjects

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TOP = {"client", "events", "projections", "services", "tests", "bench", "docs", "examples", "requirements"}
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text()) if "://" not in t]
    missing = [t for t in targets if not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = {
        word.strip(",.:;()")
        for code in CODE.findall(page.read_text())
        for word in code.split()
        if word.split("/")[0] in TOP and "/" in word and not re.search(r"[<>{}*…]", word)
    }
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert not missing


SOURCES = sorted(
    file
    for folder in TOP - {"docs", "requirements"}
    for file in (ROOT / folder).rglob("*.py")
    if "release_0_1" not in file.parts
)
PAGE = re.compile(r"\b(docs/[\w/-]+)(\.md)?(?:, \"([^\"]+)\")?")


@pytest.mark.parametrize("file", SOURCES, ids=page_id)
def test_every_page_and_section_that_code_names_exists(file: Path) -> None:
    missing = []
    for name, ending, section in PAGE.findall(file.read_text()):
        # Without an ending a folder, what begins so (a decision's number) or a file of another kind.
        pages = [ROOT / f"{name}.md"] if ending else [ROOT / name, *ROOT.glob(f"{name}[-.]*")]
        found = [page for page in pages if page.exists()]
        if not found or (section and f"# {section}" not in found[0].read_text()):
            missing.append(f"{name}{ending} {section}".strip())
    assert not missing


RULE = re.compile(r"\bprotocol\.md rules? (\d+(?:(?:, | and | to )\d+)*)")


def test_every_rule_of_the_protocol_that_code_names_exists() -> None:
    rules = set(re.findall(r"^(\d+)\. ", (ROOT / "docs/protocol.md").read_text(), re.MULTILINE))
    named = {
        (page_id(file), number)
        for file in SOURCES
        for numbers in RULE.findall(file.read_text())
        for number in re.findall(r"\d+", numbers)
    }
    assert named
    assert {(file, number) for file, number in named if number not in rules} == set()


def commands(page: Path) -> list[str]:
    """Lines in code blocks and inline code that begin with our command."""
    text = page.read_text()
    lines = [line.split("  #")[0].strip() for _, block in FENCE.findall(text) for line in block.splitlines()]
    lines += [code.strip() for code in CODE.findall(FENCE.sub("", text))]
    return [line for line in lines if re.match(r"(?:\S*/)?trainshed [a-z]", line)]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_that_a_page_names_exists_with_its_options(page: Path) -> None:
    wrong = [line for line in commands(page) if not understood(line)]
    assert not wrong


def understood(line: str) -> bool:
    """The verb exists, and so does each option before a `--`."""
    words = shlex.split(line.replace("…", "").replace("[", " ").replace("]", " "))[1:]
    command: click.Command = main_group()
    context = click.Context(command, info_name="trainshed")
    while words and isinstance(command, click.Group):
        names = words[0].split("|")
        found = [command.get_command(context, name) for name in names]
        if any(verb is None for verb in found):
            return False
        first = found[0]
        assert first is not None
        command = first
        words = words[1:]
    known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
    for word in words:
        if word == "--":
            break
        if re.match(r"-[^\d]", word) and word.split("=")[0] not in known | {"--help"}:
            return False
    return True


def main_group() -> click.Group:
    from services.cli import main as module

    groups = [value for value in vars(module).values() if isinstance(value, click.Group)]
    assert len(groups) == 1
    return groups[0]


def test_the_check_of_commands_can_fail() -> None:
    assert not understood("trainshed frobnicate")
    assert not understood("trainshed ls --frobnicate")
    assert understood("trainshed ls --all")


def test_the_readme_shows_the_settings_as_they_are() -> None:
    assert markdown_table() in (ROOT / "README.md").read_text()


def test_make_targets_named_in_pages_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z-]+)", page.read_text()))
        assert named <= targets, page


CONTRACTS = "\n".join(page.read_text() for page in sorted((ROOT / "docs/contracts").glob("*.md")))
CALLS = (*asking.QUERIES, *connection.COMMANDS)


@pytest.mark.parametrize("call", CALLS)
def test_every_call_of_the_client_is_in_the_contracts(call: str) -> None:
    assert f".{call}`" in CONTRACTS


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_verb_is_in_the_contracts(name: str) -> None:
    page = (ROOT / "docs/contracts/command-line.md").read_text()
    assert re.search(rf"\b{name}\b", FENCE.findall(page)[0][1])


def test_subjects_named_in_the_contracts_are_those_of_the_code() -> None:
    for name in (
        subjects.EVENTS_STREAM,
        subjects.HEARTBEATS_STREAM,
        subjects.RUNS_BUCKET,
        subjects.SLOTS_BUCKET,
        subjects.NODES_BUCKET,
        subjects.QUEUE_BUCKET,
    ):
        assert name in CONTRACTS


assert callable(main)
