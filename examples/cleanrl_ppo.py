"""PPO on CartPole-v1 in one file, in the style of CleanRL; needs torch and gymnasium.

It runs anywhere: `python examples/cleanrl_ppo.py --seed 1`. Under Trainshed it sends heartbeats over NOTIFY_SOCKET and
keeps a checkpoint in TRAINSHED_RUN_DIR, so that a next attempt goes on where this one stopped; it uses no library of ours.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn


def notify(**fields: object) -> None:
    """One datagram in systemd's protocol, where somebody listens."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                text = "\n".join(f"{name}={value}" for name, value in fields.items())
                sock.sendto(text.encode(), socket.MSG_DONTWAIT, path)
            except OSError:
                pass  # a heartbeat that is lost is no reason to stop training


def layer(inputs: int, outputs: int, gain: float) -> Any:
    """A linear layer with an orthogonal start."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


def network(inputs: int, outputs: int, gain: float) -> Any:
    """Two hidden layers."""
    root = float(np.sqrt(2))
    return nn.Sequential(
        layer(inputs, 64, root), nn.Tanh(), layer(64, 64, root), nn.Tanh(), layer(64, outputs, gain)
    )


def advantages(
    rewards: Any, values: Any, dones: Any, last_value: Any, last_done: Any, gamma: float, lam: float
) -> Any:
    """Generalised advantage estimation, backwards over the rollout."""
    found = torch.zeros_like(rewards)
    running = torch.zeros_like(last_value)
    next_value, alive = last_value, 1.0 - last_done
    for step in reversed(range(len(rewards))):
        delta = rewards[step] + gamma * next_value * alive - values[step]
        running = delta + gamma * lam * alive * running
        found[step] = running
        next_value, alive = values[step], 1.0 - dones[step]
    return found


def save(file: Path | None, state: dict[str, Any]) -> None:
    """Write the checkpoint, whole or not at all."""
    if file is not None:
        part = file.with_name(file.name + ".part")
        torch.save(state, part)
        part.replace(file)


def arguments() -> argparse.Namespace:
    run_dir = os.environ.get("TRAINSHED_RUN_DIR")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env-id", default="CartPole-v1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--total-timesteps", type=int, default=100_000)
    parser.add_argument("--learning-rate", type=float, default=2.5e-4)
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--num-steps", type=int, default=128)
    parser.add_argument("--num-minibatches", type=int, default=4)
    parser.add_argument("--update-epochs", type=int, default=4)
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--gae-lambda", type=float, default=0.95)
    parser.add_argument("--clip-coef", type=float, default=0.2)
    parser.add_argument("--ent-coef", type=float, default=0.01)
    parser.add_argument("--vf-coef", type=float, default=0.5)
    parser.add_argument("--max-grad-norm", type=float, default=0.5)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path(run_dir, "checkpoint.pt") if run_dir else None,
        help="file to go on from and to save to (default: checkpoint.pt in TRAINSHED_RUN_DIR)",
    )
    return parser.parse_args()


def main() -> int:
    args = arguments()
    stopping: list[int] = []  # the signals that asked for it
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    envs = gym.vector.SyncVectorEnv(
        [lambda: gym.make(args.env_id) for _ in range(args.num_envs)],
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    inputs = int(np.prod(envs.single_observation_space.shape or ()))
    space: Any = envs.single_action_space
    actor = network(inputs, int(space.n), 0.01).to(device)
    critic = network(inputs, 1, 1.0).to(device)
    weights = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(weights, lr=args.learning_rate, eps=1e-5)

    batch = args.num_envs * args.num_steps
    updates = max(1, args.total_timesteps // batch)
    update = 0
    if args.checkpoint is not None and args.checkpoint.exists():
        saved = torch.load(args.checkpoint, map_location=device, weights_only=True)
        actor.load_state_dict(saved["actor"])
        critic.load_state_dict(saved["critic"])
        optimizer.load_state_dict(saved["optimizer"])
        update = saved["update"]
    print(f"device {device}, update {update} of {updates}", flush=True)
    notify(READY=1, STATUS="resumed" if update else "started")

    shape = (args.num_steps, args.num_envs)
    observations = torch.zeros((*shape, inputs), device=device)
    actions, logprobs, rewards, dones, values = (torch.zeros(shape, device=device) for _ in range(5))
    seen, _ = envs.reset(seed=args.seed + update)
    observation = torch.as_tensor(seen, dtype=torch.float32, device=device)
    done = torch.zeros(args.num_envs, device=device)
    lengths = np.zeros(args.num_envs)
    returns: deque[float] = deque(maxlen=20)
    began = time.monotonic()

    while update < updates and not stopping:
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1.0 - update / updates)
        for step in range(args.num_steps):
            observations[step], dones[step] = observation, done
            with torch.no_grad():
                policy = torch.distributions.Categorical(logits=actor(observation))
                action = policy.sample()
                values[step] = critic(observation).flatten()
            actions[step], logprobs[step] = action, policy.log_prob(action)
            seen, reward, terminated, truncated, _ = envs.step(action.cpu().numpy())
            over = np.logical_or(terminated, truncated)
            lengths += np.asarray(reward)
            returns.extend(float(length) for length in lengths[over])
            lengths[over] = 0
            rewards[step] = torch.as_tensor(reward, dtype=torch.float32, device=device)
            observation = torch.as_tensor(seen, dtype=torch.float32, device=device)
            done = torch.as_tensor(over, dtype=torch.float32, device=device)

        with torch.no_grad():
            last = critic(observation).flatten()
            better = advantages(rewards, values, dones, last, done, args.gamma, args.gae_lambda)
            targets = better + values
        flat = [part.reshape(batch, -1).squeeze(1) for part in (actions, logprobs, better, targets)]
        for _ in range(args.update_epochs):
            for index in torch.randperm(batch).chunk(args.num_minibatches):
                inputs_, action, logprob, advantage, target = (
                    part[index] for part in (observations.reshape(batch, inputs), *flat)
                )
                policy = torch.distributions.Categorical(logits=actor(inputs_))
                ratio = (policy.log_prob(action) - logprob).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
                value_loss = 0.5 * (critic(inputs_).flatten() - target).square().mean()
                loss = policy_loss - args.ent_coef * policy.entropy().mean() + args.vf_coef * value_loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(weights, args.max_grad_norm)
                optimizer.step()

        update += 1
        steps = update * batch
        reward_now = float(np.mean(returns)) if returns else 0.0
        notify(
            WATCHDOG=1,
            X_STEP=steps,
            X_PROGRESS=f"{update / updates:.3f}",
            X_METRIC_reward=f"{reward_now:.1f}",
            X_METRIC_loss=f"{loss.item():.4f}",
        )
        if update % 10 == 0 or update == updates:
            speed = int(args.num_steps * args.num_envs * 10 / max(time.monotonic() - began, 1e-9))
            began = time.monotonic()
            print(f"step {steps} return {reward_now:.1f} steps/s {speed}", flush=True)
            save(args.checkpoint, _state(actor, critic, optimizer, update))
    save(args.checkpoint, _state(actor, critic, optimizer, update))
    return 128 + signal.SIGTERM if update < updates else 0


def _state(actor: Any, critic: Any, optimizer: Any, update: int) -> dict[str, Any]:
    return {
        "actor": actor.state_dict(),
        "critic": critic.state_dict(),
        "optimizer": optimizer.state_dict(),
        "update": update,
    }


if __name__ == "__main__":
    sys.exit(main())
