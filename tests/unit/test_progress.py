"""The one metric that matters, how far a run is, and how long it goes on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.times import at
from tests.unit.test_cli_words import record
from trainshed_client.rendering.progress import shown_metric, shown_progress, time_left_s

SB3 = [
    "eval/mean_ep_length", "eval/mean_reward", "rollout/ep_len_mean", "rollout/ep_rew_mean", "time/fps", "time/iterations",
    "time/time_elapsed", "time/total_timesteps", "train/approx_kl", "train/entropy_loss", "train/explained_variance",
    "train/learning_rate", "train/loss", "train/policy_gradient_loss", "train/std", "train/value_loss",
]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], None),
        (["fps"], "fps"),
        (["entropy", "fps", "reward"], "reward"),
        (["loss", "accuracy"], "accuracy"),
        (["loss", "return", "reward"], "reward"),
        (["loss", "episodic_return"], "episodic_return"),
        (["entropy", "loss"], "loss"),
        (["entropy_loss", "loss", "policy_loss", "value_loss"], "loss"),
        (["entropy_loss", "fps", "value_loss"], "value_loss"),
        (["lr", "grad_norm", "x"], "x"),
        (["fps", "widgets"], "widgets"),
        (["first_reward", "reward"], "reward"),
        (["max_reward", "mean_reward", "min_reward"], "mean_reward"),
        (["reward_std", "loss"], "loss"),
        (SB3, "eval/mean_reward"),
        ([name for name in SB3 if not name.startswith("eval/")], "rollout/ep_rew_mean"),
        ([name for name in SB3 if name.startswith(("train/", "time/"))], "train/loss"),
        (["charts/SPS", "charts/episodic_length", "charts/episodic_return", "losses/entropy"], "charts/episodic_return"),
        (["charts/SPS", "charts/learning_rate", "losses/approx_kl", "losses/policy_loss", "losses/value_loss"], "losses/policy_loss"),
        (["epoch", "eval_accuracy", "eval_loss", "eval_runtime", "eval_samples_per_second"], "eval_accuracy"),
        (["epoch", "grad_norm", "learning_rate", "loss"], "loss"),
        (["epoch", "train_loss_epoch", "train_loss_step", "val_loss"], "val_loss"),
        (["loss/train", "loss/val"], "loss/val"),
        (["acc@1", "acc@5", "loss"], "acc@1"),
        (["Loss", "mAP50-95", "mIoU"], "mAP50-95"),
        (["metrics/mAP50(B)", "train/box_loss"], "metrics/mAP50(B)"),
        (["AverageReturn", "StdReturn"], "AverageReturn"),
        (["evalLoss", "trainLoss"], "evalLoss"),
        (["success_rate", "reward_scale"], "success_rate"),
        (["loss_scale", "perplexity"], "perplexity"),
        (["total_loss", "mse"], "total_loss"),
        (["accelerator_load", "lossless_bytes"], "accelerator_load"),
    ],
)  # fmt: skip
def test_the_metric_that_matters(names: list[str], shown: str | None) -> None:
    assert shown_metric(names) == shown


@pytest.mark.parametrize(
    ("primary", "labels", "shown"),
    [
        ("fps", {}, "fps"),
        ("fps", {"metric": "loss"}, "fps"),
        (None, {"metric": "loss"}, "train/loss"),
        ("gone", {"metric": "loss"}, "train/loss"),
        ("LOSS", {}, "train/loss"),
        ("mean_reward", {}, "eval/mean_reward"),
        ("eval/mean_reward", {"metric": "fps"}, "eval/mean_reward"),
        ("", {"metric": ""}, "eval/mean_reward"),
        ("los", {"other": "fps"}, "eval/mean_reward"),
        (None, None, "eval/mean_reward"),
    ],
)
def test_what_the_worker_said_comes_first_then_the_label(
    primary: str | None, labels: dict[str, str] | None, shown: str
) -> None:
    assert shown_metric(["fps", "train/loss", "eval/mean_reward"], primary, labels) == shown


@pytest.mark.parametrize(
    ("given", "done"),
    [
        ({}, None),
        ({"progress": 0.25}, 0.25),
        ({"progress": 1.5}, 1.0),
        ({"progress": -1.0}, 0.0),
        ({"progress": float("nan")}, None),
        ({"progress": 0.25, "step": 3, "max_steps": 4}, 0.25),
        ({"step": 3, "max_steps": 4}, 0.75),
        ({"step": 0, "max_steps": 4}, 0.0),
        ({"step": 5, "max_steps": 4}, None),
        ({"step": float("nan"), "max_steps": 4}, None),
        ({"step": 3, "max_steps": 0}, None),
        ({"step": 3}, None),
        ({"max_steps": 4}, None),
    ],
)
def test_how_far_it_is(given: dict[str, Any], done: float | None) -> None:
    assert shown_progress(record(**given)) == done


BEGAN, TOLD, NOW = (at(f"2026-11-24T09:{minute}:00.000000Z") for minute in ("00", "10", "15"))


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"progress": 0.25}, 1500),
        ({"step": 250, "max_steps": 1000}, 1500),
        ({"progress": 0.75}, 0),
        ({"progress": 0.001}, 599_100),
        ({"progress": 0.0}, None),
        ({"progress": 1.0}, None),
        ({"progress": 0.25, "attempt": 2}, None),
        ({"progress": 0.25, "started_at": None}, None),
        ({"progress": 0.25, "started_at": TOLD}, None),
        ({"progress": 0.25, "last_heartbeat_at": None}, None),
        ({}, None),
    ],
)
def test_the_time_left_is_reckoned_up_to_when_it_was_told(given: dict[str, Any], left: float | None) -> None:
    seconds = time_left_s(record(**{"started_at": BEGAN, "last_heartbeat_at": TOLD, **given}), NOW)
    assert seconds == (None if left is None else pytest.approx(left))
