"""What of a worker's report is shown where there is room for little: how far it is, and the one metric that matters.

Owns which metric that is and how the time left is reckoned; makes no text, reads no clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from trainshed_client.records import AttemptRecord, RunRecord

_MATTERS: tuple[tuple[str, ...], ...] = (
    ("reward", "rewards", "rew"),
    ("return", "returns"),
    ("score", "scores", "success", "win", "winrate", "elo"),
    ("accuracy", "acc", "top1"),
    ("f1", "auc", "auroc", "map", "miou", "iou", "dice", "bleu", "rouge", "psnr", "ssim", "precision", "recall"),
    ("loss", "losses"),
    ("perplexity", "ppl", "bpb", "bpc", "nll", "elbo", "fid", "wer", "cer", "mse", "rmse", "mae", "error", "err"),
)  # fmt: skip
"""Words of metrics, those that matter most first."""


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SELDOM = _set(
    "entropy kl grad gradient lr learning rate fps sps throughput speed time timing runtime seconds second sec secs ms tokens samples"
    " gpu cpu memory mem scale clip std var variance epsilon temperature norm step steps epoch epochs iter iters iteration"
    " iterations timesteps updates episode episodes length len eta"
)
_BESIDE = _set("step epoch rate len norm gpu episode second")
"""Words of the above that may stand beside one that matters: ``success_rate``, ``train_loss_epoch``."""
_EXPECTED = _set("eval evaluation val valid validation test mean avg average")
_SPREAD = _set("min max first best worst median policy value actor critic aux")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_LETTERS = re.compile(r"[a-z]+(?:(?<=top)1|(?<=f)1)?")
_LEAST_PROGRESS = 0.001


def shown_metric(
    metrics: Iterable[str], primary: str | None = None, labels: Mapping[str, str] | None = None
) -> str | None:
    """The name of the one metric to show; None where there is none.

    ``primary`` (what the worker said matters), else the run's label ``metric``, by its name or its last part
    (``reward`` is ``eval/reward``); else the one with the word that matters most: reward, return, score, accuracy, loss
    and their kin, before what is seldom looked for, as entropy or fps.
    """
    names = list(metrics)
    for wanted in (primary, (labels or {}).get("metric")):
        if wanted and (found := _named(names, wanted)):
            return found
    return min(names, key=_rank, default=None)


def shown_progress(record: RunRecord | AttemptRecord, max_steps: int | None = None) -> float | None:
    """How much of its work a worker has done, from 0 to 1: as it said, else by its steps; None where nobody knows."""
    if record.progress is not None:
        return min(1.0, max(0.0, record.progress)) if record.progress == record.progress else None
    if isinstance(record, RunRecord):
        max_steps = record.max_steps
    if record.step is None or not max_steps or not 0 <= record.step <= max_steps:
        return None
    return record.step / max_steps


def time_left_s(record: RunRecord, now: datetime) -> float | None:
    """Seconds until a running worker is done if it goes on as it did; None where nobody knows.

    Of a later attempt nobody does: how far it was when it began is not told.
    """
    done = shown_progress(record)
    began, reported = record.started_at, record.last_heartbeat_at
    if done is None or began is None or reported is None or record.attempt > 1:
        return None
    if not _LEAST_PROGRESS <= done < 1:
        return None
    worked_s = (reported - began).total_seconds()
    return max(0.0, worked_s * (1 - done) / done - (now - reported).total_seconds()) if worked_s > 0 else None


def _named(names: list[str], wanted: str) -> str | None:
    """The metric of that name, in whatever case, else the first whose last part it is."""
    wanted = wanted.casefold()
    for name in names:
        if name.casefold() == wanted:
            return name
    return next((name for name in names if re.split(r"[/.:]", name.casefold())[-1] == wanted), None)


def _rank(name: str) -> tuple[int, int, int, int]:
    """The lower, the more it matters; of equal ones the first told."""
    last = _parts(re.split(r"[/.:]", name)[-1])
    every = _parts(name)
    rank = next((place for place, kin in enumerate(_MATTERS) if every.intersection(kin)), None)
    seldom = every & _SELDOM
    if rank is None:
        return (len(_MATTERS) + (1 if seldom else 0), 0, 0, len(every))
    if seldom - _BESIDE:
        return (len(_MATTERS) + 1, 0, 0, len(every))
    beside = 2 if every & _SPREAD else 0 if len(every) == 1 or every & _EXPECTED else 1
    in_last = any(last.intersection(kin) for kin in _MATTERS)
    return (rank, beside, 0 if in_last else 1, len(every))


def _parts(name: str) -> set[str]:
    return {*_LETTERS.findall(name.lower()), *_LETTERS.findall(_CAMEL.sub(" ", name).lower())}
