"""The command `trainshed`: its verbs, loaded when they are used, and how a command ends.

Owns the list of verbs, exit codes and what an error looks like; must import nothing that `--help` does not need.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from services.cli.verb import LazyGroup, NoSuchVerb
from trainshed_client.errors import Advised, ErrorCode, ExitCode, NobodyAnswers, TrainshedError

BROKEN_PIPE = 141
INTERRUPTED = 130

VERBS: dict[str, tuple[str, str]] = {
    "up": ("services.cli.up:up", "Start everything on this machine, with an embedded nats-server."),
    "down": ("services.cli.up:down", "Stop it; running workers go on."),
    "service": ("services.cli.service:service", "Make it a systemd service: service install."),
    "submit": ("services.cli.submit:submit", "Queue a run and return at once."),
    "run": ("services.cli.run:run", "Submit, follow the output, exit with the worker's code."),
    "ls": ("services.cli.ls:ls", "List runs: the live ones and the last that ended."),
    "show": ("services.cli.show:show", "Show everything about one run."),
    "explain": ("services.cli.explain:explain", "Say why a run waits, or why it ended."),
    "logs": ("services.cli.logs:logs", "Print the output of a run (-f: follow it)."),
    "metrics": ("services.cli.metrics:metrics", "Show what a run measured, over all its steps."),
    "artifacts": (
        "services.cli.artifacts:artifacts",
        "List what a run left in artifacts/, or get a file of it.",
    ),
    "path": ("services.cli.path:path", "Print the folder of a run."),
    "wait": ("services.cli.wait:wait", "Wait until runs have ended, exit with their code."),
    "cancel": ("services.cli.cancel:cancel", "End runs, queued or running."),
    "retry": ("services.cli.cancel:retry", "Run an ended run again, as its next attempt."),
    "slots": ("services.cli.slots:slots", "List GPU slots and who holds them."),
    "nodes": ("services.cli.nodes:nodes", "List machines and how they are."),
    "drain": ("services.cli.node:drain", "Grant a node nothing more; what runs there goes on."),
    "resume": ("services.cli.node:resume", "Grant a drained node runs again."),
    "node": ("services.cli.node:node", "Let a machine in, put it out, or say that it is gone."),
    "user": ("services.cli.user:user", "Let a person in, or put one out."),
    "cluster": ("services.cli.cluster:cluster", "Let others in at all: cluster init."),
    "login": ("services.cli.login:login", "Use a stack on another machine from here."),
    "prune": ("services.cli.prune:prune", "Delete the folders of runs that ended long ago."),
    "events": ("services.cli.events:events", "Print the event log; piped, one CloudEvents object a line."),
    "audit": ("services.cli.audit:audit", "Prove that replaying the log gives the same state: audit verify."),
    "simulate": (
        "services.cli.simulate:simulate",
        "What if: the same jobs on other nodes, or by another policy.",
    ),
    "schema": ("services.cli.schema:schema", "Print the contract's JSON Schema, or write all its files."),
    "config": ("services.cli.config:config", "Print the settings in force, and where each comes from."),
    "completion": (
        "services.cli.completion:completion",
        "Print the script that completes this command in a shell.",
    ),
    "gateway": ("services.cli.service_verbs:gateway", "Run the gateway alone."),
    "dispatcher": ("services.cli.service_verbs:dispatcher", "Run a dispatcher alone."),
    "projector": ("services.cli.service_verbs:projector", "Run a projector alone."),
    "enrol": ("services.cli.service_verbs:enrol", "Run the enrolment alone."),
    "agent": ("services.cli.service_verbs:agent", "Run this machine's agent alone."),
}
"""Verb → where it is (``module:command``), and its line of help."""


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"trainshed {version('trainshed')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    verbs=VERBS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=("trainshed up", "trainshed run --gpus 1 -- python3 train.py      in another terminal"),
)
@click.option(
    "--nats",
    metavar="URL",
    help="The stack to talk to; without it NATS_URL, else the one that `trainshed up` started here.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print it."
)
@click.pass_context
def cli(ctx: click.Context, nats: str | None) -> None:
    """Queue training jobs on GPU machines, run them, and keep a log of everything that happened to them."""
    ctx.obj = {"nats": nats}


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The console script: run one command and exit with its code."""
    open_standard_streams()
    try:
        if (
            signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        ):  # until now it ended us at once (trainshed_client.launch)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run(sys.argv[1:] if args is None else args)
    except KeyboardInterrupt:
        code = INTERRUPTED
    with contextlib.suppress(OSError):  # the terminal may be gone: the end of an ssh session
        sys.stderr.flush()
    # The interpreter's own shutdown frees nothing that the end of the process does not, and costs 10 to 30 ms.
    os._exit(code)


def open_standard_streams() -> None:
    """Put /dev/null where the caller closed stdin, stdout or stderr (``>&-``): the next file or socket that is opened
    would take that number, and what is printed would go there."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            stream = io.TextIOWrapper(io.FileIO(number, mode, closefd=False), "utf-8", "backslashreplace")
            setattr(sys, name, stream)


def run(args: Sequence[str]) -> int:
    """Run one command; its exit code. What is wrong is told on stderr; a traceback is a fault of the program alone."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may have letters that the locale has not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if shadowed := _shadowed():
            _complain(shadowed)
            return ExitCode.BAD_INPUT
        try:
            return _invoke(args)
        finally:
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:  # its message is the help: nothing was wrong
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        instead = f"{context.command_path if context else 'trainshed'} --help"
        if isinstance(error, NoSuchVerb):
            instead = error.instead
        _complain(f"{error.format_message()}\nTry: {instead}")
        return error.exit_code
    except TrainshedError as error:
        _complain(_with_command(error, args))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  # the edge: whatever it is, it ends as text and an exit code
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has seen enough, as in `trainshed ls | head -1`.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return BROKEN_PIPE
        return _unforeseen(error, args)


def _unforeseen(error: Exception, args: Sequence[str]) -> int:
    """Print what no verb foresaw: trouble of the machine as text, anything else as the fault that it is."""
    from services.plain_trouble import plain

    if (trouble := plain(error)) is not None:
        _complain(_with_command(trouble, args))
        return trouble.exit_code
    import traceback

    with contextlib.suppress(OSError):
        traceback.print_exception(error)
    _complain("this is a fault of Trainshed itself; please report it with the lines above")
    return ExitCode.NO_SERVICE


def _invoke(args: Sequence[str]) -> int:
    """As click's own main, which would end with 1 where the reader of our output has gone."""
    if "_TRAINSHED_COMPLETE" in os.environ:
        cli.main(args=list(args), prog_name="trainshed")
    try:
        with cli.make_context("trainshed", list(args)) as context:
            cli.invoke(context)
            return int(context.obj.get("exit", ExitCode.OK))
    except click.exceptions.Exit as end:
        return end.exit_code


def _with_command(error: TrainshedError, args: Sequence[str]) -> str:
    """The error, ending with a command to try: its own, else one that goes with its kind."""
    message = str(error)
    if isinstance(error, Advised | NobodyAnswers) or "trainshed " in message.splitlines()[-1]:
        return message
    given, whole = _verb_of(args)
    match error.code:
        case ErrorCode.NOT_FOUND:
            there = "trainshed nodes" if given in ("drain", "resume", "node") else "trainshed ls --all"
        case ErrorCode.CONFLICT:
            there = "trainshed nodes" if given == "node" else "trainshed ls"
        case ErrorCode.UNAVAILABLE:
            there = "trainshed up" if given == "up" else "trainshed nodes"
        case _:
            there = f"trainshed {whole} --help" if whole else "trainshed --help"
    return f"{message}\nTry: {there}"


def _verb_of(args: Sequence[str]) -> tuple[str | None, str]:
    """The verb that was given, and the same with the verb of its group behind it (`audit check`)."""
    for place, given in enumerate(args):
        if given in VERBS:
            command = cli.get_command(click.Context(cli), given)
            below = command.list_commands(click.Context(command)) if isinstance(command, click.Group) else ()
            rest = [name for name in args[place + 1 : place + 2] if name in below]
            return given, " ".join([given, *rest])
    return None, ""


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be there to read it, or no room
        click.echo(f"Error: {message}", err=True)


def _shadowed() -> str | None:
    """What to say where another folder's ``events`` or ``projections`` would be imported instead of ours."""
    from importlib.machinery import PathFinder

    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for package in ("events", "projections"):
        spec = PathFinder.find_spec(package)
        found = os.path.abspath(spec.origin) if spec is not None and spec.origin else None
        if found is not None and os.path.samefile(os.path.dirname(os.path.dirname(found)), root):
            continue
        if spec is None:
            return f"the package {package!r} is missing beside {root}: install Trainshed again"
        places = list(spec.submodule_search_locations or ())
        where = found or (places[0] if places else "somewhere else")
        return (
            f"{where} hides Trainshed's own package {package!r} (in {root}). "
            "Take its folder out of PYTHONPATH: env -u PYTHONPATH trainshed ..."
        )
    return None
