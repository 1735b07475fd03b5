"""A worker's world: the same whatever the stack was started in, with the caller's programs, and in UTF-8."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.stack import Stack

TERMINAL = {
    "TERM": "tmux-256color",
    "TMUX": "/tmp/tmux-0/default,1,0",
    "SSH_CONNECTION": "::1 40000 ::1 22",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "DISPLAY": ":0",
    "PS1": "(venv) $ ",
    "SHLVL": "2",
    "PWD": "/",
    "LS_COLORS": "di=1",
    "XDG_SESSION_ID": "3",
    "LC_CTYPE": "de_DE.ISO-8859-1",
    "PYTHONPATH": "/nowhere",
    "LD_LIBRARY_PATH": "/nowhere",
    "WANDB_MODE": "offline",
    "USER": "root",
    "LOGNAME": "root",
}
SYSTEMD = {"INVOCATION_ID": "0" * 32, "JOURNAL_STREAM": "8:1", "SYSTEMD_EXEC_PID": "1", "LANG": "C.UTF-8"}
NOT_UTF8 = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def venv(folder: Path) -> Path:
    """A venv, as one who trains has it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def activated(folder: Path) -> dict[str, str]:
    return {"VIRTUAL_ENV": str(folder), "PATH": f"{folder}/bin:/usr/bin:/bin"}


def test_env_is_the_same_from_a_stack_in_a_terminal_with_a_venv_and_from_a_service(
    new_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    own = Path(sys.executable).parent
    seen = []
    for name, started_in in (
        ("terminal", {**TERMINAL, **activated(venv(tmp_path / "venv"))}),
        ("own", {**TERMINAL, "VIRTUAL_ENV": str(own.parent), "PATH": f"{own}:/usr/bin:/bin"}),
        ("service", {**SYSTEMD, "PATH": "/usr/bin:/bin"}),
    ):
        stack = new_stack(name, environment={"HOME": str(tmp_path), **started_in})
        for words in (("--", "/usr/bin/env"), ("-f", "-")):
            caller = {"PATH": "/usr/local/bin:/usr/bin:/bin", **NOT_UTF8}
            done = stack.trainshed(
                *("run", "--gpus", "1", *words),
                environment={"VIRTUAL_ENV": "", "PYTHONPATH": "", "LD_LIBRARY_PATH": "", **caller},
                stdin=b'{"entry_point": "/usr/bin/env"}',
                cwd=tmp_path,
            )
            same = {
                "TEST_STACK",
                "TRAINSHED_LOG_ID",
                "TRAINSHED_RUN_DIR",
                "TRAINSHED_SOCKET",
                "NOTIFY_SOCKET",
            }
            told = dict(line.split("=", 1) for line in done.lines)
            told["PATH"] = told["PATH"].removesuffix(f":{stack.state_dir}/bin")
            seen.append({name: value for name, value in told.items() if name not in same})
    for command, file in zip(seen[::2], seen[1::2], strict=True):
        assert command == seen[0]
        assert {**file, "TRAINSHED_RUN_ID": "", "PATH": ""} == {
            **command,
            "TRAINSHED_RUN_ID": "",
            "PATH": "",
        }
        assert str(own) not in file["PATH"].split(":")
    assert seen[0]["PATH"] == "/usr/local/bin:/usr/bin:/bin"
    assert (seen[0]["LANG"], seen[0]["PYTHONUTF8"]) == ("C.UTF-8", "1")
    assert not seen[0].keys() & (TERMINAL.keys() | SYSTEMD.keys()) - {"USER", "LOGNAME", "LANG"}


def test_an_active_venv_works_inside_scripts(stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text('#!/bin/sh\npython -c "import sys; print(sys.prefix)"; echo $VIRTUAL_ENV\n')
    script.chmod(0o755)
    mine = venv(tmp_path / "mine")
    done = stack.trainshed("run", "--new", "--", "./train.sh", environment=activated(mine), cwd=tmp_path)
    assert done.lines == [str(mine), str(mine)]


def test_the_same_line_from_two_terminals_with_other_paths_is_one_run(stack: Stack, tmp_path: Path) -> None:
    words = ("submit", "--name", "two-terminals", "--", "/bin/sh", "-c", "echo $PATH")
    first, second = (
        stack.trainshed(*words, json=True, environment={"PATH": f"{tmp_path}/{name}:/bin"}, cwd=tmp_path)
        for name in ("one", "two")
    )
    assert (first["run_id"], first["created"], second["created"]) == (second["run_id"], True, False)
    stack.wait(first["run_id"])
    assert stack.stdout(first["run_id"]) == f"{tmp_path}/one:/bin:{stack.state_dir}/bin\n"
    stack.trainshed("retry", first["run_id"])
    stack.wait(first["run_id"])
    assert stack.stdout(first["run_id"], 2) == f"{tmp_path}/one:/bin:{stack.state_dir}/bin\n", (
        "a retry has it too"
    )


def test_a_bare_name_of_a_file_is_found_in_the_nodes_path(stack: Stack) -> None:
    run = stack.submit_config({"entry_point": "env"}, environment={"PATH": "/nowhere"})
    stack.wait(run)
    assert "PATH=/nowhere" not in stack.stdout(run)


def test_python_shows_what_it_prints_at_once(stack: Stack) -> None:
    code = "import os, sys; sys.stdout.write('before'); os._exit(0)"
    assert stack.trainshed("run", "--new", "--", sys.executable, "-c", code).text == "before"
    buffered = ("run", "--new", "--env", "PYTHONUNBUFFERED=", "--", sys.executable, "-c", code)
    assert stack.trainshed(*buffered).text == "", "the config says otherwise"


def test_names_and_output_are_utf8_whatever_the_locale(
    new_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    stack = new_stack("grün-in-c", environment=NOT_UTF8)
    folder = tmp_path / "wälder"
    folder.mkdir()
    script = folder / "läuft.py"
    script.write_text("import os, sys; print(sys.argv[1], os.getcwd(), os.environ['BÄUME'], 'é日')\n")
    words = ("--name", "Größe", "--env", "BÄUME=viele", "--", sys.executable, "läuft.py", "grün")
    done = stack.trainshed("run", *words, cwd=folder, environment=NOT_UTF8)
    assert done.text == f"grün {folder} viele é日\n"
    in_utf8 = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    for caller in (NOT_UTF8, in_utf8):
        assert stack.trainshed("ls", environment=caller).text.count("Größe") == 1
    again = stack.trainshed("submit", *words, json=True, cwd=folder, environment=in_utf8)
    assert again["created"] is False, "the same words are the same run"
