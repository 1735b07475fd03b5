"""The one line that tells most of why an attempt failed: of what its worker wrote last, or of its node's message.

Owns which line that is, and its length; must not know who shows it. A change of it raises SCHEMA_VERSION.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence

from events.types import Event, Failed
from trainshed_client.statuses import FailureReason

MAX_ERROR = 200
_LINE = 1_000
"""So much of a line is looked at."""
_GUESSED_OF = 40
"""So many last lines are looked at where none is certain."""
_CRASHES = frozenset(
    {
        signal.SIGABRT,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGTRAP,
        signal.SIGSYS,
    }
)
"""Signals that a program brings upon itself: of another, its last words are not the cause."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufffd]+")
_PREFIX = re.compile(
    r"(?:\[(?:rank|default)?\d+(?:,\d+)?\](?:<std(?:err|out)>)?: ?"  # torchrun, mpirun
    r"|\((?:[^()\s]+ )*pid=\d+(?:, ip=[\d.]+)?\) ?)"  # Ray
)
_TASK = re.compile(r"^\s*\d+: ?")
_TASK_HEAD = re.compile(r"^\s*\d+: Traceback \(most", re.MULTILINE)
_GROUP = re.compile(r"\s*(?:\+-)?[|+] ?(?=\S|\s{2})")
_HEAD = re.compile(r"(?:Exception Group )?Traceback \(most recent call last\):")
_IGNORED = re.compile(r"Exception ignored |--- Logging error ---|Error in atexit")
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)(?:\(\w+\))?(?::|$)")
_ANY_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:\(\w+\))?(?::|$)")
_CRASH = re.compile(
    r"(?:command not found|: not found$|Fatal Python error: |oom-kill event|Out Of Memory|DUE TO TIME LIMIT"
    r"|No space left on device|Signal \d+ \(SIG|line \d+:\s+\d+ (?:Killed|Segmentation fault|Bus error|Aborted|Illegal))"
    r"|^(?:panic: |thread '.*' panicked at |Killed$|Segmentation fault|Bus error|Aborted \(core|Illegal instruction)",
    re.MULTILINE,
)
_AT = re.compile(r"\s+File \"(?:[^\"]*/)?([^\"/]+)\", line (\d+)")
_WHAT = re.compile(r"\s*what\(\):\s*(?=\S)")
_FAILURES = re.compile(
    r"\b(?:error|fatal|exception|fail(?:ed|ure)|cannot|can't|could not|couldn't|unable to|no such|no module|not found"
    r"|denied|refused|invalid|missing|unknown|unrecognized|unexpected|unbound|is not|does not|doesn't|must|abort(?:ed|ing)?|out of memory|ERR!)(?!\w)",
    re.IGNORECASE,
)
_ERROR = re.compile(r"\s*(?:[\w./-]{1,80}: )?(?:(?i:fatal|error)|Abort\w*):\s*\S")
_SECONDARY = re.compile(
    r"(?:[\w.]*\.)?(?:ChildFailedError|InstantiationException|CalledProcessError|(?:Base)?ExceptionGroup"
    r"|DistBackendError|DistNetworkError|EOFError|BrokenPipeError|ConnectionResetError|Process(?:Exited|Raised)Exception"
    r"|_?RemoteTraceback|ActorDiedError|BrokenProcessPool)\b"
    r"|.*?(?:Connection closed by peer|DataLoader worker .*exited unexpectedly|Exited with exit code|Execution halted|BEGIN failed--"
    r"|make(?:\[\d+\])?: \*\*\*|conda run .* failed|NCCL communicator was aborted|failed \(exitcode: )"
)
"""What follows from another process' or another line's trouble: told where nothing else is."""
_NOISE = re.compile(
    r"wandb:|.*\d+%\||.*\d(?:it/s|s/it)\b|.*\b(?:INFO|DEBUG|WARN|WARNING)\b|.*Warning: |[\W_]*$|[{\[].*[}\]]$"
    r"|To (?:enable|see) |Stack ?trace:|(?:note|hint|see|please see|for more)\b",
    re.IGNORECASE,
)
_MARKED = ("[", "(", " ", "|", "+")
_RULE = re.compile(r"[\W_]*$")
_FRAME = "-=~^─━│╭╮╰╯┌┐└┘ "


def error_of(event: Event) -> str | None:
    """What an end says of its cause, in at most 200 characters of one line; None: it says nothing."""
    if not isinstance(event, Failed):
        return None
    match event.failure_reason:
        case FailureReason.EXIT_CODE:
            return cause_in(event.output_tail or "", guess=event.output_of == "stderr")
        case FailureReason.SIGNAL:
            crashed = event.signal in _CRASHES
            return cause_in(event.output_tail or "", guess=False) if crashed else None
        case _:
            return _cut(" ".join(_lines(event.message or "")))


def cause_in(output: str, *, guess: bool = True) -> str | None:
    """Of what a program wrote last the line that tells most of why it failed.

    The last exception of Python, or a shell's or the system's word of what ended; none that only follows from another.
    ``guess``: else a line with a word of failure, else the last one: of stderr, where a program says what is wrong.
    """
    lines = _lines(output)
    cause, follows = None, None
    for line, secondary in _certain(lines):
        cause, follows = (cause, line) if secondary else (line, follows)
    best = cause or follows
    if best is None and guess:
        best = next(_guessed(lines), None)
    return _cut(best or "")


def _certain(lines: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Every line that certainly tells of an error, and whether that only follows from another."""
    crashed = _CRASH.search("\n".join(lines)) is not None
    in_traceback = ignored = False
    for place, line in enumerate(lines):
        if not line or (in_traceback and line[0].isspace()):
            continue  # the frames
        if line[0] in "TE" and _HEAD.match(line):
            in_traceback = True
            ignored = place > 0 and bool(_IGNORED.match(lines[place - 1]))
        elif (_ANY_EXCEPTION if in_traceback else _EXCEPTION).match(line):
            if not ignored:
                yield _with_next(lines, place), bool(_SECONDARY.match(line))
            in_traceback = ignored = False
        elif what := _WHAT.match(line):
            yield line[what.end() :], False
        elif _ERROR.match(line):
            yield _with_next(lines, place), True
        elif crashed and _CRASH.search(line):
            yield _with_next(lines, place), False


def _guessed(lines: Sequence[str]) -> Iterator[str]:
    """Lines that may tell of an error, the likeliest first: the last of those with such a word, then the last of all."""
    begin = max(0, len(lines) - _GUESSED_OF)
    texts = [(place, lines[place].strip(_FRAME)) for place in range(len(lines) - 1, begin - 1, -1)]
    failures = [(place, text) for place, text in texts if _FAILURES.search(text) and not _NOISE.match(text)]
    yield from (_with_next(lines, place) for place, text in failures if not _SECONDARY.match(text))
    yield from (text for _, text in texts if _SECONDARY.match(text))
    yield from (text for _, text in texts if not _NOISE.match(text))


def _with_next(lines: Sequence[str], place: int) -> str:
    """A line, and the next ones with words while it ends in a colon; of an exception that says nothing, where it was."""
    line = lines[place].strip(_FRAME)
    if _EXCEPTION.fullmatch(line) and not line.endswith(":"):
        at = next(filter(None, map(_AT.match, lines[place::-1])), None)
        return f"{line} ({at[1]}:{at[2]})" if at else line
    following = (one.strip() for one in lines[place + 1 :] if not _RULE.match(one))
    while line.endswith(":") and len(line) <= MAX_ERROR and (more := next(following, None)) is not None:
        line = f"{line} {more}"
    return line


def _lines(text: str) -> list[str]:
    """The lines as a terminal would leave them, without colours, or who wrote each."""
    text = _CONTROL.sub(" ", _ESCAPES.sub("", text)).expandtabs(4)
    by_task = _TASK_HEAD.search(text) is not None
    lines = []
    for raw in text.split("\n"):
        line = raw.rstrip()
        if "\r" in line:
            line = line.rpartition("\r")[2]
        line = line[:_LINE]
        if by_task:
            line = _TASK.sub("", line, count=1)
        elif line[:1] in _MARKED and (found := _PREFIX.match(line) or _GROUP.match(line)):
            line = line[found.end() :]
        lines.append(line)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _cut(text: str) -> str | None:
    text = " ".join(text.split())
    return f"{text[: MAX_ERROR - 1]}…" if len(text) > MAX_ERROR else text or None
