"""Trains a linear policy on Gymnasium's CartPole-v1 by REINFORCE, with NumPy only.

It runs anywhere: `python examples/cartpole.py --seed 1`. Under Trainshed it uses what every worker gets (docs: the
worker's contract), and no library of Trainshed's: it sends heartbeats over NOTIFY_SOCKET, keeps its checkpoint in
TRAINSHED_RUN_DIR, so that a next attempt goes on where this one stopped, and leaves its weights in artifacts/.
"""

from __future__ import annotations

import os

# One run is to keep one core busy. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import math
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

EPISODES = 10
CHECKPOINT_EVERY = 5
# How large the four observations are (place, speed, angle, its speed), so that one learning rate fits them.
SCALE = np.array([1.0, 1.0, 0.2, 1.0])


def notify(*lines: str) -> None:
    """Send one sd_notify datagram, as systemd's services do; nothing where nobody listens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                address = "\0" + path[1:] if path.startswith("@") else path
                sock.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, address)
            except OSError:
                pass  # a heartbeat that is lost is no reason to stop training


def tell(**telemetry: Any) -> None:
    """Print one telemetry line."""
    print(json.dumps(telemetry), flush=True)


class Training:
    """The policy, its random numbers and how far it has come: all that a checkpoint holds."""

    def __init__(self, seed: int, lr: float) -> None:
        self.asked = {"seed": seed, "lr": lr}
        self.env = gymnasium.make("CartPole-v1", disable_env_checker=True)
        self.random = np.random.default_rng(seed)
        self.weights = np.zeros(4)
        self.iteration = 0
        self.first_reward: float | None = None

    def episode(self) -> tuple[np.ndarray, np.ndarray]:
        """Play one episode (1 to 500 steps, each a reward of 1): what was seen, and how surprising each push was."""
        observation, _ = self.env.reset(seed=int(self.random.integers(2**31)))
        dice = self.random.random(500)
        seen, surprises = [], []
        over = False
        while not over:
            seen.append(observation / SCALE)
            right = 1.0 / (1.0 + math.exp(-float(seen[-1] @ self.weights)))
            push = int(dice[len(seen) - 1] < right)
            surprises.append(push - right)
            observation, _, fallen, too_long, _ = self.env.step(push)
            over = fallen or too_long
        return np.array(seen), np.array(surprises)

    def step(self) -> float:
        """One iteration: a few episodes, then one step along the policy gradient. Returns their mean reward."""
        episodes = [self.episode() for _ in range(EPISODES)]
        # What was still to come at each step, and how that compares with all steps of the batch.
        to_come = np.concatenate([np.arange(len(seen), 0, -1.0) for seen, _ in episodes])
        better = (to_come - to_come.mean()) / (to_come.std() or 1.0)
        surprises = np.concatenate([surprise for _, surprise in episodes])
        gradient = (better * surprises) @ np.concatenate([seen for seen, _ in episodes]) / len(better)
        self.weights = self.weights + self.asked["lr"] * gradient
        self.iteration += 1
        reward = float(np.mean([len(seen) for seen, _ in episodes]))
        if self.first_reward is None:
            self.first_reward = reward
        return reward

    def save(self, file: Path | None) -> None:
        """Write the checkpoint, whole or not at all."""
        if file is None:
            return
        state = {
            "asked": self.asked,
            "iteration": self.iteration,
            "first_reward": self.first_reward,
            "weights": self.weights.tolist(),
            "random": self.random.bit_generator.state,
        }
        part = file.with_name(file.name + ".part")
        part.write_text(json.dumps(state))
        part.replace(file)

    def resume(self, file: Path | None) -> bool:
        """Go on from a checkpoint of the same training, if there is one."""
        if file is None or not file.exists():
            return False
        state = json.loads(file.read_text())
        if state["asked"] != self.asked:
            sys.exit(f"{file} is of another training: {state['asked']}, not {self.asked}")
        self.iteration, self.first_reward = state["iteration"], state["first_reward"]
        self.weights = np.array(state["weights"])
        self.random.bit_generator.state = state["random"]
        return True


def arguments() -> argparse.Namespace:
    run_dir = os.environ.get("TRAINSHED_RUN_DIR")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=3.0, help="how far one iteration goes (default 3)")
    parser.add_argument("--iterations", type=int, default=int(os.environ.get("TRAINSHED_MAX_STEPS") or 120))
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path(run_dir, "checkpoint.json") if run_dir else None,
        help="file to go on from and to save to (default: checkpoint.json in TRAINSHED_RUN_DIR)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(run_dir, "artifacts") if run_dir else None,
        help="folder for the final weights (default: artifacts/ in TRAINSHED_RUN_DIR)",
    )
    parser.add_argument("--fail-at", type=int, metavar="N", help="exit with code 3 at iteration N")
    parser.add_argument("--hang-at", type=int, metavar="N", help="go silent at iteration N, but stay alive")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    stopping: list[int] = []  # the signals that asked for it
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))

    training = Training(args.seed, args.lr)
    resumed = training.resume(args.checkpoint)
    tell(type="start", iteration=training.iteration, resumed=resumed, **training.asked)
    notify("READY=1", "STATUS=resumed" if resumed else "STATUS=started")

    while training.iteration < args.iterations:
        if stopping:
            training.save(args.checkpoint)
            tell(type="stopped", iteration=training.iteration, saved=args.checkpoint is not None)
            return 128 + signal.SIGTERM
        if training.iteration == args.fail_at:
            print(f"iteration {training.iteration}: failing, as --fail-at asked", file=sys.stderr)
            return 3
        if training.iteration == args.hang_at:
            print(f"iteration {training.iteration}: going silent, as --hang-at asked", file=sys.stderr)
            while not stopping:
                time.sleep(0.2)
            continue
        reward = training.step()
        step = training.iteration
        tell(type="episode", iteration=step, reward=round(reward, 1))
        notify(
            "WATCHDOG=1",
            f"STATUS=iteration {step} reward {reward:.0f}",
            f"X_STEP={step}",
            f"X_PROGRESS={step / args.iterations:.3f}",
            f"X_METRIC_reward={reward:.1f}",
            f"X_METRIC_first_reward={training.first_reward or 0:.1f}",
        )
        if step % CHECKPOINT_EVERY == 0:
            training.save(args.checkpoint)

    training.save(args.checkpoint)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        np.save(args.out / "weights.npy", training.weights)
    tell(type="done", iterations=training.iteration, first_reward=training.first_reward)
    return 0


if __name__ == "__main__":
    sys.exit(main())
