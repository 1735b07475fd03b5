"""Random search from inside a run: the controller submits its trials as runs of their own, waits, and tells the best.

It needs trainshed_client, and nothing to reach the stack by: its node keeps a socket for it (TRAINSHED_SOCKET).
    trainshed submit --name search --retries 2 -- python3 examples/random_search.py --trials 8
Its dice are seeded, so a next attempt asks for the same trials: those that ran are not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import socket
import sys
import time
from pathlib import Path

from trainshed_client import RunRecord, Trainshed


def report(**metrics: float) -> None:
    """Send metrics to the shim by one sd_notify datagram; nothing where nobody listens."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(
                "\n".join(f"X_METRIC_{name}={value}" for name, value in metrics.items()).encode(), path
            )


def train(lr: float, momentum: float, seconds: float) -> None:
    """A trial: in the place of a training, a bowl with its lowest point at (0.1, 0.9)."""
    time.sleep(seconds)
    loss = (lr - 0.1) ** 2 + (momentum - 0.9) ** 2
    report(loss=loss)
    print(f"lr {lr} momentum {momentum} loss {loss:.4f}")


def trial(number: int, lr: float, momentum: float, seconds: float) -> dict[str, object]:
    """The run config of a trial; what is the same is the same run."""
    words = ["--lr", str(lr), "--momentum", str(momentum), "--seconds", str(seconds)]
    return {
        "run_name": f"trial-{number}",
        "entry_point": sys.executable,
        "arguments": [str(Path(__file__).resolve()), *words],
    }


async def search(trials: int, seed: int, seconds: float) -> RunRecord | None:
    """Run all trials; the record of the best."""
    dice = random.Random(seed)
    configs = [
        trial(number, round(dice.uniform(0, 1), 3), round(dice.uniform(0, 1), 3), seconds)
        for number in range(trials)
    ]
    async with await Trainshed.connect() as trainshed:
        submissions = await trainshed.submit_many(configs)
        created = sum(submission.created for submission in submissions)
        print(f"{created} of {trials} trials are new", flush=True)
        records = await trainshed.wait([submission.run_id for submission in submissions])
    told = (
        one for one in records if "loss" in one.metrics and not math.isnan(loss(one))
    )  # one that diverged is no best
    return min(told, key=loss, default=None)


def loss(record: RunRecord) -> float:
    """What a trial reported."""
    return float(record.metrics["loss"])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a trial takes")
    parser.add_argument("--lr", type=float, help="be a trial")
    parser.add_argument("--momentum", type=float, default=0.0)
    args = parser.parse_args()
    if args.lr is not None:
        train(args.lr, args.momentum, args.seconds)
        return 0
    best = asyncio.run(search(args.trials, args.seed, args.seconds))
    if best is None:
        print("no trial has completed", file=sys.stderr)
        return 1
    print(f"best: {best.name} ({best.run_id}), loss {loss(best):.4f}")
    report(loss=loss(best))
    return 0


if __name__ == "__main__":
    sys.exit(main())
