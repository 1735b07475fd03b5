"""The one line that tells most of why an attempt failed: of what its worker wrote last, or of its node's message.

Owns which line that is, and its length; must not know who shows it. A change of it raises SCHEMA_VERSION.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from events.types import Event, Failed
from trainshed_client.statuses import FailureReason

MAX_ERROR = 200
_LINE = 1_000
"""So much of a line is looked at."""
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
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd]+")
_PREFIX = re.compile(
    r"(?:\[(?:rank|default)?\d+(?:,\d+)?\](?:<std(?:err|out)>)?: ?"  # torchrun, mpirun
    r"|\((?:[^()\s]+ )*pid=\d+(?:, ip=[\d.]+)?\) ?)"  # Ray
)
_TASK = re.compile(r"\s*\d+: ?")
_TASK_HEAD = re.compile(r"^\s*\d+: Traceback \(most", re.MULTILINE)
_GROUP = re.compile(r"\s*(?:\+-)?[|+] ?(?=\S|\s{2})")
_HEAD = re.compile(r"(?:Exception Group )?Traceback \(most recent call last\):")
_IGNORED = re.compile(r"Exception ignored |--- Logging error ---|Error in atexit")
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)(?:\(\w+\))?(?::|$)")
_ANY_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:\(\w+\))?(?::|$)")
_CRASH = re.compile(
    r".*?(?:command not found|: not found$|Fatal Python error: |oom-kill event|Out Of Memory|DUE TO TIME LIMIT"
    r"|No space left on device|Signal \d+ \(SIG|line \d+:\s+\d+ (?:Killed|Segmentation fault|Bus error|Aborted|Illegal))"
    r"|panic: |thread '.*' panicked at |Killed$|Segmentation fault|Bus error|Aborted \(core|Illegal instruction"
)
_WHAT = re.compile(r"what\(\):\s*(?=\S)")
_FAILURES = re.compile(
    r".*\b(?:error|fatal|exception|fail(?:ed|ure)|cannot|can't|could not|couldn't|unable to|no such|no module|not found"
    r"|denied|refused|invalid|missing|unknown|unrecognized|abort(?:ed|ing)?|out of memory|ERR!)(?!\w)",
    re.IGNORECASE,
)
_ERROR = re.compile(r"(?:[\w./-]{1,80}: )?(?:(?i:fatal|error)|Abort\w*):\s*\S")
_SECONDARY = re.compile(
    r"(?:[\w.]*\.)?(?:ChildFailedError|InstantiationException|CalledProcessError|(?:Base)?ExceptionGroup"
    r"|DistBackendError|DistNetworkError|EOFError|BrokenPipeError|ConnectionResetError|Process(?:Exited|Raised)Exception"
    r"|_?RemoteTraceback|ActorDiedError|BrokenProcessPool)\b"
    r"|.*(?:Connection closed by peer|DataLoader worker .*exited unexpectedly|Exited with exit code|Execution halted"
    r"|make(?:\[\d+\])?: \*\*\*|conda run .* failed|NCCL communicator was aborted|failed \(exitcode: )"
)
"""What follows from another process' or another line's trouble: told where nothing else is."""
_NOISE = re.compile(
    r"wandb:|.*\d+%\||.*\d(?:it/s|s/it)\b|.*\b(?:INFO|DEBUG|WARN|WARNING)\b|.*Warning: |[\W_]*$|[{\[].*[}\]]$"
    r"|To (?:enable|see) |Stack ?trace:|(?:note|hint|see|please see|for more)\b",
    re.IGNORECASE,
)
_RULE = re.compile(r"[\W_]*$")
_FRAME = "-=~^─━│╭╮╰╯┌┐└┘ "
_GUESSED = 2


class _Candidate(NamedTuple):
    """A line that tells of an error; ``weight``: the more, the better it tells."""

    weight: int
    text: str


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
    found = [one for one in _candidates(lines) if guess or one.weight > _GUESSED]
    best = max((one.weight for one in found), default=0)
    last = next((one.text for one in reversed(found) if one.weight == best), None)
    if last is None and guess:
        last = next((line for line in reversed(lines) if not _NOISE.match(line.strip())), None)
    return _cut(last or "")


def _candidates(lines: Sequence[str]) -> Iterator[_Candidate]:
    """Every line that tells of an error."""
    in_traceback = ignored = False
    for place, line in enumerate(lines):
        text = line.strip(_FRAME)
        if _HEAD.match(line):
            in_traceback = True
            ignored = place > 0 and bool(_IGNORED.match(lines[place - 1]))
        elif not text or (in_traceback and line[0].isspace()):
            pass  # the frames
        elif (_ANY_EXCEPTION if in_traceback else _EXCEPTION).match(line):
            if not ignored:
                yield _Candidate(3 if _SECONDARY.match(line) else 4, _with_next(lines, place))
            in_traceback = ignored = False
        elif what := _WHAT.match(text):
            yield _Candidate(4, text[what.end() :])
        elif _ERROR.match(text):
            yield _Candidate(3, _with_next(lines, place))
        elif _SECONDARY.match(text):
            yield _Candidate(1, text)
        elif _CRASH.match(text):
            yield _Candidate(4, _with_next(lines, place))
        elif _FAILURES.match(text) and not _NOISE.match(text):
            yield _Candidate(_GUESSED, _with_next(lines, place))


def _with_next(lines: Sequence[str], place: int) -> str:
    """A line, and the next one with words where this one ends in a colon."""
    line = lines[place].strip(_FRAME)
    if not line.endswith(":"):
        return line
    more = next((one.strip() for one in lines[place + 1 :] if not _RULE.match(one)), "")
    return f"{line} {more}"


def _lines(text: str) -> list[str]:
    """The lines as a terminal would leave them, without colours, or who wrote each."""
    text = _ESCAPES.sub("", text)
    by_task = bool(_TASK_HEAD.search(text))
    lines = []
    for raw in text.split("\n"):
        line = _CONTROL.sub(" ", raw.rstrip("\r").rpartition("\r")[2].expandtabs(4)[:_LINE]).rstrip()
        if found := (_TASK.match(line) if by_task else _PREFIX.match(line)) or _GROUP.match(line):
            line = line[found.end() :]
        lines.append(line)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _cut(text: str) -> str | None:
    text = " ".join(text.split())
    return f"{text[: MAX_ERROR - 1]}…" if len(text) > MAX_ERROR else text or None
