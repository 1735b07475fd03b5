"""Why a queued run waits, as text: one renderer for answers, screens and whoever else shows records.

Owns the texts of each reason; knows neither where the data come from nor how wide a screen is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainshed_client.records import Wait
from trainshed_client.rendering.durations import FAR_S, format_duration, in_a_sentence
from trainshed_client.statuses import WaitReason

MAX_NAMED = 3
_ID_SHOWN = 6


def text(wait: Wait) -> str:
    """A clause for people: ``waiting for 2 free GPUs (1 of 2 free)``."""
    numbers = wait.numbers
    reason = wait.reason
    if reason is WaitReason.CANCEL:
        return "it is being cancelled"
    if reason is WaitReason.DEPENDENCY:
        if numbers.get("failed"):
            return f"run {_first(wait.runs)} did not complete, so this one is being cancelled"
        return f"waiting for {_runs(wait, str)}"
    if reason is WaitReason.BACKOFF:
        if (seconds := numbers.get("seconds", 0)) >= FAR_S:
            return f"waiting for a retry that its back-off (retry.backoff_s) puts off for {format_duration(seconds)}"
        return f"waiting until its {_retry(wait)}"
    if reason is WaitReason.NO_NODE:
        return _no_node(int(numbers.get("drained", 0)), int(numbers.get("away", 0)))
    if reason is WaitReason.TOO_LARGE:
        return f"no node that is up has {_needs(wait)}"
    if reason is WaitReason.GPUS:
        unit = "whole GPU" if numbers.get("whole") else "free GPU"
        return f"waiting for {_of(wait, 'gpus', unit)} {_free_gpus(wait, long=True)}"
    if reason is WaitReason.CPUS:
        return f"waiting for {_of(wait, 'cpus', 'free CPU')} ({_most(wait)} free on the best node)"
    if reason is WaitReason.MEMORY:
        return f"waiting for {numbers.get('memory_mb', 0)} MB of free memory ({_most(wait)} MB free on the best node)"
    if reason is WaitReason.SUSPECT:
        return _suspect(wait)
    if reason is WaitReason.RESERVATION:
        return _behind(wait)
    if reason is WaitReason.TURN:
        return "waiting for its turn"
    return "waiting, for a reason that this release does not know"


def brief(wait: Wait, shown: Callable[[str], str] = str) -> str:
    """The same for a narrow column beside the status: ``for 2 GPUs (1 free)``. ``shown``: how a run's id is shown."""
    reason = wait.reason
    if reason is WaitReason.DEPENDENCY:
        if wait.numbers.get("failed"):
            return f"run {shown(_first(wait.runs))} did not complete"
        return f"after {_runs(wait, shown)}"
    if reason is WaitReason.BACKOFF:
        return _retry(wait)
    if reason is WaitReason.GPUS:
        unit = "whole GPU" if wait.numbers.get("whole") else "GPU"
        return f"for {_of(wait, 'gpus', unit)} {_free_gpus(wait, long=False)}"
    if reason is WaitReason.CPUS:
        return f"for {_of(wait, 'cpus', 'CPU')} ({_most(wait)} free on the best node)"
    if reason is WaitReason.MEMORY:
        return f"for {wait.numbers.get('memory_mb', 0)} MB of memory ({_most(wait)} MB free on the best node)"
    if reason is WaitReason.RESERVATION:
        return f"{_last(wait.nodes)} is kept for run {shown(_first(wait.runs))}"
    return "its turn" if reason is WaitReason.TURN else text(wait)


def _first(names: Sequence[str]) -> str:
    return names[0] if names else "another"


def _last(names: Sequence[str]) -> str:
    return names[-1] if names else "a node"


def _retry(wait: Wait) -> str:
    return f"retry in {in_a_sentence(wait.numbers.get('seconds', 0))}"


def _no_node(drained: int, away: int) -> str:
    if drained and away:
        return f"no node takes work ({drained} drained, {away} lost or left)"
    if drained:
        return f"no node takes work ({_count(drained, 'node')} drained)"
    return f"no node is up ({_count(away, 'node')} lost or left)" if away else "no node is up"


def _suspect(wait: Wait) -> str:
    """The nodes that could start nothing of late, and when a run is tried there."""
    total, probe_in_s = int(wait.numbers.get("suspect", 1)), wait.numbers.get("probe_in_s")
    which = f"{_first(wait.nodes)} starts" if total == 1 else f"{total} nodes start"
    when = (
        "a run is being tried there"
        if probe_in_s is None
        else f"one is tried there in {in_a_sentence(probe_in_s)}"
    )
    return f"{which} no run at present; {when}"


def _needs(wait: Wait) -> str:
    numbers = wait.numbers
    parts = [_of(wait, "gpus", "GPU")] if numbers.get("gpus") else []
    parts.append(_of(wait, "cpus", "CPU"))
    if memory_mb := numbers.get("memory_mb"):
        parts.append(f"{memory_mb} MB of memory")
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def _free_gpus(wait: Wait, *, long: bool) -> str:
    numbers = wait.numbers
    free, total = numbers.get("free", 0), numbers.get("total", 0)
    if free >= numbers.get("gpus", 0):
        return f"on one node ({free} of {total} free on several)"
    return f"({free} of {total} free)" if long else f"({free} free)"


def _behind(wait: Wait) -> str:
    """There is room, on the first of its nodes; the last is kept for another run, which comes first."""
    room, kept, numbers = _first(wait.nodes), _last(wait.nodes), wait.numbers
    first = f"for run {_first(wait.runs)[:_ID_SHOWN]}, which comes first"
    what = f"{kept} has room, but keeps it {first}"
    if room != kept:
        what = f"{room} has room, but on devices that {kept} keeps {first}"
    if "starts_in_s" not in numbers:
        return f"{what}; what that waits for has no time limit"
    if "limit_s" not in numbers:
        return f"{what}; this one has no time limit to be over before that"
    limit, grace = (in_a_sentence(numbers.get(name, 0)) for name in ("limit_s", "grace_s"))
    lasts = f"{limit} and {grace} of grace"
    return f"{what}; this one may last until after that starts ({lasts}, and {numbers.get('spare_s', 0)} s are kept spare)"


def _most(wait: Wait) -> int | float:
    return wait.numbers.get("free", 0)


def _of(wait: Wait, name: str, unit: str) -> str:
    return _count(wait.numbers.get(name, 0), unit)


def _count(number: float, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _runs(wait: Wait, shown: Callable[[str], str]) -> str:
    total = int(wait.numbers.get("runs", len(wait.runs)))
    if total == 1:
        return f"run {shown(_first(wait.runs))}"
    more = f" and {total - MAX_NAMED} more" if total > MAX_NAMED else ""
    return f"runs {', '.join(map(shown, wait.runs[:MAX_NAMED]))}{more}"
