"""Data-parallel training with torch, as torchrun starts it: one process a GPU (or two on a CPU), gradients averaged.

`torchrun --standalone --nproc-per-node 2 examples/ddp.py`; needs torch. Under Trainshed CUDA_VISIBLE_DEVICES holds the
GPUs that the run was granted, so `--nproc-per-node gpu` is right for any number of them; rank 0 sends the heartbeats.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def notify(**fields: object) -> None:
    """One datagram in systemd's protocol, where somebody listens."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                text = "\n".join(f"{name}={value}" for name, value in fields.items())
                sock.sendto(text.encode(), socket.MSG_DONTWAIT, path)
            except OSError:
                pass  # a heartbeat that is lost is no reason to stop training


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=256, help="examples a process and step")
    args = parser.parse_args()

    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    target = torch.randn(32, 1, device=device)  # what is to be learnt, the same for all
    model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 1)).to(device)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(parallel.parameters(), lr=3e-3)
    torch.manual_seed(1 + rank)  # and data of its own for each
    if rank == 0:
        print(f"{world} processes on {device.type}", flush=True)
        notify(READY=1)
    for step in range(1, args.steps + 1):
        inputs = torch.randn(args.batch, 32, device=device)
        loss = (parallel(inputs) - (inputs @ target).tanh()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            if rank == 0:
                value = mean.item() / world
                progress = f"{step / args.steps:.3f}"
                notify(WATCHDOG=1, X_STEP=step, X_PROGRESS=progress, X_METRIC_loss=f"{value:.4f}")
                print(f"step {step} loss {value:.4f}", flush=True)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
