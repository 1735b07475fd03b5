"""Which verb is meant by a word that is none: another program's word for it, or a slip of the fingers.

Owns those words; nothing is ever run for them. Loaded only where a command line was not understood.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

MEANT: Mapping[str, str] = {
    # of shells and of service managers
    "ps": "ls",
    "sl": "ls",
    "list": "ls",
    "jobs": "ls",
    "runs": "ls",
    "status": "ls (all runs), trainshed show RUN (one of them), or trainshed nodes (the machines)",
    "stat": "show RUN",
    "info": "show RUN",
    "get": "show RUN",
    "describe": "show RUN",
    "inspect": "show RUN",
    "view": "show RUN",
    "cat": "logs RUN",
    "log": "logs RUN",
    "output": "logs RUN",
    "attach": "logs -f RUN",
    "tail": "logs -f --tail 20 RUN",
    "follow": "logs -f RUN",
    "watch": "wait RUN (until it has ended), or trainshed logs -f RUN (its output)",
    "kill": "cancel RUN",
    "stop": "cancel RUN (one run), or trainshed down (the stack; its workers go on)",
    "abort": "cancel RUN",
    "terminate": "cancel RUN",
    "end": "cancel RUN",
    "rm": "cancel RUN (to end it), or trainshed prune --older-than 30d (to delete what ended runs left)",
    "delete": "cancel RUN (to end it), or trainshed prune --older-than 30d (to delete what ended runs left)",
    "remove": "cancel RUN (a run), or trainshed node remove NODE (a machine that is gone)",
    "clean": "prune --older-than 30d",
    "cleanup": "prune --older-than 30d",
    "gc": "prune --older-than 30d",
    "top": "ls (the runs), or trainshed slots (the GPUs and who holds them)",
    "history": "ls --all",
    "diff": "audit diff A B (what changed between two moments)",
    "start": "submit -- CMD (a run), or trainshed up (the stack)",
    "restart": "retry RUN (a run), or trainshed down and trainshed up (the stack)",
    "rerun": "retry RUN",
    "resubmit": "retry RUN",
    "again": "retry RUN",
    "exec": "run -- CMD",
    "launch": "submit -- CMD",
    "add": "submit -- CMD",
    "create": "submit -- CMD",
    "enqueue": "submit -- CMD",
    "queue": "ls --status pending (what waits), or trainshed submit -- CMD (to queue a run)",
    "pause": "drain NODE (a machine that is to get no more runs); a run cannot be paused",
    "why": "explain RUN",
    "gpus": "slots",
    "gpu": "slots",
    "hosts": "nodes",
    "machines": "nodes",
    "files": "artifacts RUN",
    "download": "artifacts RUN get FILE",
    "cd": "path RUN",
    "dir": "path RUN",
    "where": "path RUN (its folder), or trainshed ls (its machine)",
    "settings": "config",
    "version": "--version",
    "daemon": "up --detach",
    "server": "up",
    "init": "up",
    # of schedulers that people come from
    "sbatch": "submit -- CMD",
    "qsub": "submit -- CMD",
    "bsub": "submit -- CMD",
    "srun": "run -- CMD",
    "salloc": "run -- CMD",
    "squeue": "ls",
    "qstat": "ls",
    "bjobs": "ls",
    "scancel": "cancel RUN",
    "qdel": "cancel RUN",
    "bkill": "cancel RUN",
    "sinfo": "nodes",
    "sacct": "ls --all",
    "scontrol": "show RUN",
    "sattach": "logs -f RUN",
    "sstat": "show RUN",
    "nvidia-smi": "slots",
}
"""The word → what to type after `trainshed`."""

_SHORT = 4
"""Up to so many letters one slip is enough to make another word of it; longer ones may bear two."""


def meant(given: str, verbs: Collection[str], others: Mapping[str, str] = MEANT) -> str | None:
    """What to type after the command's name, where that can be guessed."""
    lowered = given.lower()
    known = {**others, **{verb: verb for verb in verbs}}
    if lowered in known:
        return known[lowered]
    begun = [verb for verb in verbs if len(lowered) > 1 and verb.startswith(lowered)]
    if len(begun) == 1:
        return begun[0]
    allowed = 1 if len(lowered) <= _SHORT else 2
    # a verb before another program's word for it, and of those that are as near the first
    near = [(slips(lowered, name), name not in verbs, place, name) for place, name in enumerate(known)]
    best = min(near)
    return known[best[3]] if best[0] <= min(allowed, len(lowered) - 1) else None


def slips(one: str, other: str) -> int:
    """Letters to put in, leave out, change, or swap with the next, to make one word of the other."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        line = [row]
        for column, wanted in enumerate(other, 1):
            least = min(last[column] + 1, line[-1] + 1, last[column - 1] + (letter != wanted))
            if row > 1 and column > 1 and letter == other[column - 2] and one[row - 2] == wanted:
                least = min(least, before[column - 2] + 1)
            line.append(least)
        before, last = last, line
    return last[-1]
