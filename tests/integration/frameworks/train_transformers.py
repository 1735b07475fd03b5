"""A tiny BERT with weights made up on the spot learns for a moment, with the callback for Hugging Face's Trainer."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from trainshed_client.integrations.transformers import TransformersCallback


class Sequences(Dataset[Any]):
    """Eight tokens each; whether the first is an even one."""

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> Any:
        tokens = torch.randint(0, 50, (8,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens[0] % 2}


config = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    num_labels=2,
)
torch.set_num_threads(1)
Trainer(
    model=BertForSequenceClassification(config),
    args=TrainingArguments(
        output_dir=sys.argv[1],
        num_train_epochs=2,
        per_device_train_batch_size=8,
        logging_steps=4,
        eval_strategy="epoch",
        save_strategy="no",
        metric_for_best_model="loss",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=Sequences(),
    eval_dataset=Sequences(),
    callbacks=[TransformersCallback()],
).train()
