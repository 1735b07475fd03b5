"""A linear model is fitted on one process, or on two by DDP (`train_lightning.py 2`), with the callback for Lightning."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainshed_client.integrations.lightning import LightningCallback


class Fitted(lightning.LightningModule):
    """y = x · w."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: Any, _index: int) -> Any:
        loss = (self.layer(batch[0]) - batch[1]).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log_dict({"half/loss": loss / 2})
        return loss

    def validation_step(self, batch: Any, _index: int) -> None:
        self.log("val_loss", (self.layer(batch[0]) - batch[1]).square().mean(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data(seed: int, size: int) -> DataLoader[Any]:
    inputs = torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=8)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    processes = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    torch.set_num_threads(1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="auto" if processes == 1 else "ddp",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        log_every_n_steps=5,
        callbacks=[LightningCallback(primary="val_loss")],
    )
    trainer.fit(Fitted(), data(1, 160 * processes), data(2, 40))
