"""The command itself: help that costs nothing, errors without tracebacks, folders that hide ours."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest

from services.cli import main as command
from services.cli.event_lines import with_place
from services.cli.verb import Verb, VerbGroup
from trainshed_client.direct_get import Message

ROOT = Path(command.__file__).parents[2]
START = "import sys; from services.cli.main import main; main(sys.argv[1:])"


def trainshed(
    *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", START, *args],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("verb", [verb for verb in command.VERBS])
def test_every_verb_can_be_loaded_and_has_help(verb: str) -> None:
    loaded = command.cli.get_command(click.Context(command.cli), verb)
    assert loaded is not None
    assert loaded.get_short_help_str()


def every_verb(group: click.Group, *words: str) -> Iterator[tuple[str, ...]]:
    """Every verb as one types it, with those of the verbs that have some of their own."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        yield (*words, name)
        if isinstance(found, click.Group):
            yield from every_verb(found, *words, name)


@pytest.mark.parametrize("words", list(every_verb(command.cli)), ids=" ".join)
def test_the_help_of_a_verb_shows_an_example_first_and_the_verb_takes_it(words: tuple[str, ...]) -> None:
    verb: click.Command = command.cli
    settings = {"help_option_names": ["-h", "--help"]}  # as the command itself has it: click remembers them
    context = click.Context(command.cli, info_name="trainshed", **settings)  # type: ignore[arg-type]
    for word in words:
        assert isinstance(verb, click.Group)
        found = verb.get_command(context, word)
        assert found is not None
        verb, context = found, click.Context(found, parent=context, info_name=word, **settings)  # type: ignore[arg-type]
    head, first, *_ = verb.get_help(context).splitlines()
    assert head in ("Example:", "Examples:")
    assert "trainshed " in first
    assert isinstance(verb, Verb | VerbGroup)
    if isinstance(verb, Verb) and words != ("completion",):
        for example in verb.examples:
            line = re.split(r"  +| \| | && ", example.partition("trainshed ")[2])[0]
            given = shlex.split(line)
            assert tuple(given[: len(words)]) == words, f"{example} is no example of {words}"
            verb.make_context(words[-1], given[len(words) :])  # raises where it does not parse


def test_help_imports_neither_nats_nor_any_verb() -> None:
    code = (
        "import sys\n"
        "from services.cli.main import run\n"
        "assert run(['--help']) == 0\n"
        "known = {'services.cli.main', 'services.cli.verb'}\n"
        "heavy = {'nats', 'rich', 'yaml', 'sqlalchemy', 'structlog', 'msgspec', 'asyncio'} & set(sys.modules)\n"
        "verbs = [name for name in sys.modules if name.startswith('services.cli.') and name not in known]\n"
        "assert not heavy and not verbs, (heavy, verbs)\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=30)


def test_the_way_of_submit_imports_nothing_that_it_does_not_need() -> None:
    code = (
        "import sys\n"
        "import services.cli.submit, trainshed_client.client, trainshed_client.nats_client\n"
        "heavy = {'rich', 'yaml', 'sqlalchemy', 'structlog', 'rfc8785', 'events.log'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=30)


def test_reading_imports_no_sql_where_a_stack_answers() -> None:
    code = (
        "import sys\n"
        "import services.cli.ls, services.cli.show, services.cli.logs, services.cli.path, services.cli.artifacts\n"
        "import trainshed_client.client, trainshed_client.nats_client, trainshed_client.run_files\n"
        "heavy = {'rich', 'yaml', 'sqlalchemy', 'sqlite3', 'structlog', 'services.settings'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=30)


def test_importing_the_client_does_not_import_nats() -> None:
    code = (
        "import sys\n"
        "from trainshed_client import Trainshed, TrainshedError, RunOutput, RecordWatch, PRESENT\n"
        "assert 'nats' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=30)


def test_every_public_name_of_the_client_is_there() -> None:
    import trainshed_client

    assert set(trainshed_client._MODULE_OF) == set(trainshed_client.__all__)
    assert repr(trainshed_client.PRESENT) == "PRESENT"
    for name in set(trainshed_client.__all__) - {"PRESENT"}:
        assert getattr(trainshed_client, name).__name__ == name
    with pytest.raises(AttributeError):
        trainshed_client.nothing  # noqa: B018


def test_without_a_stack_a_command_says_how_to_start_one_and_exits_with_3() -> None:
    done = trainshed("ls")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "trainshed up" in done.stderr and "Traceback" not in done.stderr


def test_a_server_that_does_not_answer_is_told_by_its_url_and_exits_with_3() -> None:
    for where in (["--nats", "nats://127.0.0.1:1", "ls"], ["ls", "--nats", "nats://127.0.0.1:1"]):
        done = trainshed(*where)
        assert done.returncode == 3
        assert "nats://127.0.0.1:1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_a_shell_is_printed(shell: str) -> None:
    done = trainshed("completion", shell)
    assert done.returncode == 0
    assert "_TRAINSHED_COMPLETE" in done.stdout and "trainshed" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("trainshed exp", "explain"), ("trainshed ls --sta", "--status"), ("trainshed node rem", "remove")],
)
def test_a_shell_completes_verbs_and_options(typed: str, offered: str) -> None:
    words = typed.split()
    asked = {"_TRAINSHED_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    assert f"plain,{offered}" in trainshed(env=asked).stdout.splitlines()


@pytest.mark.parametrize(
    ("begun", "offered"),
    [("f", ["failed"]), ("failed,c", ["failed,completed", "failed,cancelled"]), ("x", [])],
)
def test_a_shell_completes_a_status(begun: str, offered: list[str]) -> None:
    asked = {"_TRAINSHED_COMPLETE": "bash_complete", "COMP_WORDS": f"trainshed ls --status {begun}"}
    done = trainshed(env={**asked, "COMP_CWORD": "3"})
    assert done.stdout.split() == [f"plain,{one}" for one in offered]


def test_what_the_locale_has_no_letters_for_is_printed_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    start = (
        "import sys; from services.cli import main, table; "
        "main._invoke = lambda _: table.print_lines(['\\xfc \\u65e5']) or 0; main.main(sys.argv[1:])"
    )
    monkeypatch.setitem(globals(), "START", start)
    for env in (
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ):
        done = trainshed("ls", env=env)
        assert (done.returncode, done.stdout, done.stderr) == (0, "\\xfc \\u65e5\n", "")


def test_without_a_stack_a_shell_is_offered_no_run_and_no_trace() -> None:
    asked = {"_TRAINSHED_COMPLETE": "bash_complete", "COMP_WORDS": "trainshed show k", "COMP_CWORD": "2"}
    done = trainshed(env=asked)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_bad_use_exits_with_2() -> None:
    assert trainshed("ls", "--no-such-option").returncode == 2
    unknown = trainshed("cancle", "x")
    assert unknown.returncode == 2
    assert "Did you mean 'cancel'?" in unknown.stderr


def test_a_folder_that_hides_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "__init__.py").write_text("")
    done = trainshed("ls", env={"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])})
    assert done.returncode == 2
    assert str(tmp_path / "events") in done.stderr
    assert "PYTHONPATH" in done.stderr


def test_a_folder_of_the_same_names_beside_the_caller_hides_nothing(tmp_path: Path) -> None:
    for package in ("events", "services", "projections"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('not ours')")
    done = trainshed("ls", cwd=tmp_path)
    assert done.returncode == 3
    assert "trainshed up" in done.stderr


def test_an_event_is_printed_with_its_place_last_and_nothing_else_changed() -> None:
    def shown(body: bytes) -> bytes | None:
        return with_place(Message(42, 1_795_508_260_123_456_789, "x", body))

    place = b',"sequence":"00000000000000000042","storedtime":"2026-11-24T08:17:40.123456789Z"}'
    body = '{"id":"x","data":{"n":1.0,"text":"é","big":9007199254740993}}'.encode()
    assert shown(body) == body[:-1] + place
    assert shown(b'{"sequence":"7","id":"x","storedtime":"never"}') == b'{"id":"x"' + place
    assert shown(b"noise") is None
    assert shown(b"[1]") is None


@pytest.mark.parametrize("words", [(), ("audit",), ("node",)])
def test_a_group_without_a_verb_shows_its_help_and_calls_it_no_error(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("Example") and "Error" not in told


@pytest.mark.parametrize(
    ("words", "verb"),
    [
        (["audit", "check", "FILE"], "audit check"),
        (["audit", "verify", "--policy", "FILE"], "audit verify"),
        (["simulate", "--trace", "FILE", "--nodes", "1x1"], "simulate"),
    ],
)
def test_bad_input_names_the_help_of_the_very_verb(
    words: list[str], verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text(
        '{"v": 2, "log_id": "a", "origin": "", "vkey": "", "run_id": "", "checkpoint": "", "events": []}'
    )
    assert command.run([str(file) if word == "FILE" else word for word in words]) == 2
    assert capsys.readouterr().err.endswith(f"\nTry: trainshed {verb} --help\n")
