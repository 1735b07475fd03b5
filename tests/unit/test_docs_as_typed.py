"""What pages show to be typed: each command is parsed by the real command line, each config is judged by the real checks.

Owns that check; that the main ones also do what they say, tests/integration/docs holds.
"""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from events.config import RunConfig
from events.config_input import accepted_config, parse_yaml
from services.cli.main import cli
from services.cli.request import build
from tests.unit.test_docs import CODE, FENCE, PAGES, ROOT, page_id
from trainshed_client.errors import TrainshedError

TYPED = [page for page in [*PAGES, ROOT / "examples/README.md"] if page.name != "CHANGELOG.md"]
SHELL = ("", "sh", "bash")
COMMAND = re.compile(r"(?:^|[;&|(]\s*)((?:[\w~./-]*/)?trainshed [a-z-].*)")
FRAGMENT = re.compile(rf"({'|'.join(RunConfig.__struct_fields__)}): .+")


def blocks(page: Path, *kinds: str) -> list[str]:
    return [block for kind, block in FENCE.findall(page.read_text()) if kind in kinds]


def typed(page: Path) -> list[str]:
    """Our commands in the blocks of a page, continued lines as one."""
    drawn = re.compile("[─│]")
    shown = "\n".join(block for block in blocks(page, *SHELL) if not drawn.search(block))
    lines = shown.replace("\\\n", " ").splitlines()
    return [found[1] for line in lines if (found := COMMAND.search(line.strip()))]


def words_of(line: str) -> list[str]:
    """What a shell would hand over, up to what ends the command there."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if word in (";", "&&", "|", "||", ">", "<", "&", ")"):
            break
        words.append(word)
    return words[1:]


def parse(line: str) -> dict[str, Any]:
    """The options of the verb, as the command line reads them. Raises click.ClickException."""
    context = cli.make_context("trainshed", words_of(line))
    arguments = [*context._protected_args, *context.args]
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        context = found.make_context(name, arguments, parent=context)
        command, arguments = found, [*getattr(context, "_protected_args", ()), *context.args]
    return {**context.params, "verb": command.name}


def refusal_of(line: str) -> str | None:
    """Why the command line would not take it, or no gateway the configs that it makes; None where they would."""
    try:
        options = parse(line)
        if options["verb"] in ("submit", "run"):
            for config in build(options).configs:
                config.pop("after", None)  # RUN
                accepted_config(config)
    except (click.ClickException, click.exceptions.Exit, TrainshedError) as error:
        return f"{line}: {error}"
    return None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the files that the pages name, and the shell in it."""
    for name in ("train.py", "job.sh"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (page,) = blocks(ROOT / "docs/run-config.md", "yaml")
    (tmp_path / "run.yaml").write_text(page)
    (tmp_path / "sweep.jsonl").write_text('{"entry_point": "/bin/true"}\n')
    (tmp_path / "bin").mkdir()
    for name in ("python", "python3"):
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", TYPED, ids=page_id)
def test_every_command_of_a_block_is_taken_as_it_is_typed(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.parent.name == "examples":
        monkeypatch.chdir(ROOT)
    assert [wrong for line in typed(page) if (wrong := refusal_of(line))] == []


def test_the_pages_have_commands_and_the_check_can_fail(folder: Path) -> None:
    assert sum(len(typed(page)) for page in TYPED) > 50
    assert refusal_of("trainshed submit -f run.yaml --priority 5 && trainshed frobnicate") is None
    for line in (
        "trainshed frobnicate",
        "trainshed wait",
        "trainshed ls --limit many",
        "trainshed submit",
        "trainshed submit -f other.yaml",
        "trainshed submit --time-limit soon -- python train.py",
        "trainshed submit --priority 2.5 -- python train.py",
        "trainshed run --set prority=2 -- python train.py",
        "trainshed run --heartbeat often -- python train.py",
    ):
        assert refusal_of(line), line


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_config_of_a_page_is_accepted(page: Path, folder: Path) -> None:
    for block in blocks(page, "yaml"):
        if "entry_point:" in block or "worker:" in block:
            (folder / "block.yaml").write_text(block)
            assert refusal_of("trainshed submit -f block.yaml") is None
    for code in CODE.findall(FENCE.sub("", page.read_text())):
        if FRAGMENT.fullmatch(code) and "…" not in code:
            fragment = parse_yaml(code.encode())
            assert isinstance(fragment, dict)
            accepted_config({"entry_point": "/bin/true"} | fragment)


class Spelled(ast.NodeTransformer):
    """Puts what a name was given, where that is spelled out, in the name's place."""

    def __init__(self, program: ast.AST) -> None:
        self._given = {
            target.id: node.value
            for node in ast.walk(program)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant | ast.Dict)
        }

    def visit_Name(self, node: ast.Name) -> ast.AST:
        given = self._given.get(node.id) if isinstance(node.ctx, ast.Load) else None
        return node if given is None else self.visit(given)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_program_of_a_page_compiles_and_submits_what_is_accepted(page: Path) -> None:
    for block in blocks(page, "python"):
        program = compile(block, str(page), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        program = Spelled(program).visit(program)
        refused = {
            call for tried in ast.walk(program) if isinstance(tried, ast.Try) for call in ast.walk(tried)
        }
        for call in ast.walk(program):
            if (
                call not in refused
                and isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr == "submit"
            ):
                accepted_config(ast.literal_eval(call.args[0]))
