"""Stable-Baselines3 on any environment of Gymnasium's, with Trainshed's heartbeats and checkpoints as one callback.

It runs anywhere: `python examples/sb3.py --algo ppo`; needs stable-baselines3. Under Trainshed the callback tells step,
progress and reward over NOTIFY_SOCKET, and a next attempt goes on from the last checkpoint in TRAINSHED_RUN_DIR.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env


def notify(**fields: object) -> None:
    """One datagram in systemd's protocol, where somebody listens."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                text = "\n".join(f"{name}={value}" for name, value in fields.items())
                sock.sendto(text.encode(), socket.MSG_DONTWAIT, path)
            except OSError:
                pass  # a heartbeat that is lost is no reason to stop training


class Heartbeats(BaseCallback):
    """Tells how far the training is, every ``every`` steps, and ends it when the worker is asked to stop."""

    def __init__(self, total: int, every: int = 1000) -> None:
        super().__init__()
        self.total = total
        self.every = every
        self.told = 0
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, _number: int, _frame: object) -> None:
        self.stopping = True

    def _on_step(self) -> bool:
        if self.num_timesteps - self.told >= self.every:
            self.told = self.num_timesteps
            episodes = self.model.ep_info_buffer or ()
            reward = sum(one["r"] for one in episodes) / len(episodes) if episodes else 0.0
            notify(
                WATCHDOG=1,
                X_STEP=self.told,
                X_PROGRESS=f"{min(1.0, self.told / self.total):.3f}",
                X_METRIC_reward=f"{reward:.1f}",
            )
            print(f"step {self.told} reward {reward:.1f}", flush=True)
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
        model = algorithm.load(checkpoint, env=envs)
    else:
        model = algorithm("MlpPolicy", envs, seed=args.seed)
    done = model.num_timesteps
    print(f"{args.algo} on {model.device}, step {done} of {args.total_timesteps}", flush=True)
    notify(READY=1, STATUS="resumed" if checkpoint else "started")

    heartbeats = Heartbeats(args.total_timesteps)
    heartbeats.told = done
    every = max(1, args.save_every // model.n_envs)
    saving = CheckpointCallback(every, str(run_dir), name_prefix="model")
    if done < args.total_timesteps:
        model.learn(args.total_timesteps - done, callback=[heartbeats, saving], reset_num_timesteps=False)
    if heartbeats.stopping:
        model.save(run_dir / f"model_{model.num_timesteps}_steps")
        return 128 + signal.SIGTERM
    (run_dir / "artifacts").mkdir(exist_ok=True)
    model.save(run_dir / "artifacts" / "model")
    return 0


if __name__ == "__main__":
    sys.exit(main())
