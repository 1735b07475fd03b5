"""An Optuna study inside a run: each trial is a run of its own, several at a time; the study lies in the run's folder.

    trainshed submit --name study --retries 2 -- python3 examples/optuna_search.py --trials 20

It needs optuna and trainshed_client. Killed and tried again, it goes on: trials that were on their way are submitted
again with the parameters that they had, which is the same config and so the run that there is.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from trainshed_client import Trainshed

TRAIN = Path(__file__).resolve().with_name("random_search.py")


def config(number: int, params: dict[str, Any], seconds: float) -> dict[str, object]:
    """The run config of a trial, made of nothing but its number and parameters."""
    words = ["--lr", str(params["lr"]), "--momentum", str(params["momentum"]), "--seconds", str(seconds)]
    return {
        "run_name": f"trial-{number}",
        "entry_point": sys.executable,
        "arguments": [str(TRAIN), *words],
        "labels": {"trial": str(number)},
    }


class Search:
    """Keeps some trials on their way until the study has as many as were asked for."""

    def __init__(self, trainshed: Trainshed, study: optuna.Study, trials: int, seconds: float) -> None:
        self._trainshed = trainshed
        self._study = study
        self._trials = trials
        self._seconds = seconds
        # What an attempt before this one left: with parameters it goes on, without it never began.
        self._begun = study.get_trials(states=(TrialState.RUNNING,))

    def next_trial(self) -> tuple[int, dict[str, Any]] | None:
        """The number and parameters of the next trial; None where there are enough."""
        while self._begun:
            trial = self._begun.pop(0)
            if {"lr", "momentum"} <= trial.params.keys():
                return trial.number, trial.params
            self._study.tell(trial.number, state=TrialState.FAIL)
        if len(self._study.trials) >= self._trials:
            return None
        asked = self._study.ask()
        asked.suggest_float("lr", 0.0, 1.0)
        asked.suggest_float("momentum", 0.0, 1.0)
        return asked.number, asked.params

    async def work(self) -> None:
        """One trial after the other."""
        while (found := self.next_trial()) is not None:
            number, params = found
            submission = await self._trainshed.submit(config(number, params, self._seconds))
            (record,) = await self._trainshed.wait([submission.run_id])
            loss = record.metrics.get("loss")
            print(f"trial {number}: {'new' if submission.created else 'known'}, loss {loss}", flush=True)
            if loss is None or math.isnan(loss):  # it told none, or diverged
                self._study.tell(number, state=TrialState.FAIL)
            else:
                self._study.tell(number, loss)


async def search(args: argparse.Namespace) -> optuna.Study:
    """The study once it has all its trials."""
    file = Path(os.environ.get("TRAINSHED_RUN_DIR", "."), "study.journal")
    study = optuna.create_study(
        study_name="search",
        storage=JournalStorage(JournalFileBackend(str(file))),
        sampler=optuna.samplers.TPESampler(seed=args.seed),
        load_if_exists=True,
    )
    async with await Trainshed.connect() as trainshed, asyncio.TaskGroup() as tasks:
        one = Search(trainshed, study, args.trials, args.seconds)
        for _ in range(args.at_once):
            tasks.create_task(one.work())
    return study


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a trial takes")
    study = asyncio.run(search(parser.parse_args()))
    print(f"best: trial {study.best_trial.number}, loss {study.best_value:.4f}, {study.best_params}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
