"""Stable-Baselines3 on any environment of Gymnasium's: Trainshed's callback reports, and a next attempt goes on.

It runs anywhere: `python examples/sb3.py --algo ppo`; needs stable-baselines3, and `pip install ./client` into the same
environment. Under Trainshed step, progress and what is logged are reported, and checkpoints lie in TRAINSHED_RUN_DIR.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

from trainshed_client.integrations.stable_baselines3 import StableBaselines3Callback


class StopsOnSigterm(BaseCallback):
    """Ends the training at the next step once the worker is asked to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, _number: int, _frame: object) -> None:
        self.stopping = True

    def _on_step(self) -> bool:
        return not self.stopping


def newest(folder: Path) -> Path | None:
    """The last checkpoint."""
    found = sorted(folder.glob("model_*_steps.zip"), key=lambda path: int(path.stem.split("_")[1]))
    return found[-1] if found else None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--algo", choices=("ppo", "a2c", "dqn"), default="ppo")
    parser.add_argument("--env-id", default="CartPole-v1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--total-timesteps", type=int, default=50_000)
    parser.add_argument("--save-every", type=int, default=10_000, metavar="STEPS")
    args = parser.parse_args()

    torch.set_num_threads(1)
    run_dir = Path(os.environ.get("TRAINSHED_RUN_DIR", "."))
    algorithm = getattr(stable_baselines3, args.algo.upper())
    envs = make_vec_env(args.env_id, seed=args.seed)
    checkpoint = newest(run_dir)
    if checkpoint is not None:
        model = algorithm.load(checkpoint, env=envs, verbose=1)
    else:
        model = algorithm("MlpPolicy", envs, seed=args.seed, verbose=1)
    done = model.num_timesteps
    print(f"{args.algo} on {model.device}, step {done} of {args.total_timesteps}", flush=True)

    stops = StopsOnSigterm()
    every = max(1, args.save_every // model.n_envs)
    saving = CheckpointCallback(every, str(run_dir), name_prefix="model")
    if done < args.total_timesteps:
        callbacks = [StableBaselines3Callback(), stops, saving]
        model.learn(args.total_timesteps - done, callback=callbacks, reset_num_timesteps=False)
    if stops.stopping:
        model.save(run_dir / f"model_{model.num_timesteps}_steps")
        return 128 + signal.SIGTERM
    (run_dir / "artifacts").mkdir(exist_ok=True)
    model.save(run_dir / "artifacts" / "model")
    return 0


if __name__ == "__main__":
    sys.exit(main())
