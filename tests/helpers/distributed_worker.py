"""One rank of the distributed tests, started by torchrun: `distributed_worker.py OUT_FILE`.

It trains the same model on its share of one batch with DistributedDataParallel and with fully_shard. Each item has a
key of its own, so its noise does not depend on the rank that has it. Rank 0 writes the results to OUT_FILE.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import vae_fused as vf

ITEMS, STEPS, BETA = 12, 3, 0.5


class Objective(nn.Module):
    """The whole objective as a forward, which is where the wrappers hook in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.model = vf.mlp_vae((1, 8, 8), 6, (32,))
        self.criterion = vf.FusedELBOLoss(beta=BETA)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        out = self.model(x, key=keys)
        return self.criterion(out.recon, x, kl=out.kl)


def whole_batch() -> tuple[Tensor, Tensor]:
    x = torch.rand(ITEMS, 1, 8, 8, generator=torch.Generator().manual_seed(12))
    return x, torch.tensor([[100 + item, 7 * item] for item in range(ITEMS)], dtype=torch.uint64)


def _full(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def train(wrap: Callable[[Objective], nn.Module], rank: int, ranks: int) -> dict[str, list[Tensor]]:
    """The gradients of the first step and the parameters after the last."""
    objective = Objective()
    step = wrap(objective)
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    x, keys = (t.tensor_split(ranks)[rank] for t in whole_batch())
    first: list[Tensor] = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        step(x, keys).backward()
        first = first or [_full(p.grad) for p in objective.parameters() if p.grad is not None]
        optimizer.step()
    return {"gradients": first, "parameters": [_full(p) for p in objective.parameters()]}


def sharded(objective: Objective) -> nn.Module:
    for part in (objective.model.encoder, objective.model.decoder):
        fully_shard(part)
    return fully_shard(objective)


def main(out_file: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    try:
        rank, ranks = dist.get_rank(), dist.get_world_size()
        results = {
            "ddp": train(DistributedDataParallel, rank, ranks),
            "fsdp": train(sharded, rank, ranks),
            "sharded": [isinstance(p, DTensor) for p in sharded(Objective()).parameters()],
        }
        if rank == 0:
            torch.save(results, out_file)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # A Gloo thread may still hold the last Python tensors of fully_shard and ask for the interpreter's lock to free
    # them; an interpreter that is shutting down ends that thread, and C++ ends the process with SIGABRT (one run in
    # eight with torch 2.13). The results are written, so the process ends here without the shutdown.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
