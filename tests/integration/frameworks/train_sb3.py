"""A2C and DQN learn for a moment, with the callback for Stable-Baselines3 and nothing else of Trainshed's."""

from __future__ import annotations

import torch
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.logger import configure

from trainshed_client.integrations.stable_baselines3 import StableBaselines3Callback

torch.set_num_threads(1)
on_policy = A2C("MlpPolicy", "CartPole-v1", seed=1, device="cpu")
on_policy.set_logger(configure(None, ["log"]))  # one for all calls of learn()
on_policy.learn(1_000, callback=StableBaselines3Callback(), log_interval=20)
on_policy.learn(500, callback=StableBaselines3Callback(), log_interval=20, reset_num_timesteps=False)
DQN("MlpPolicy", "CartPole-v1", seed=1, device="cpu").learn(
    400, callback=StableBaselines3Callback(primary=None)
)
