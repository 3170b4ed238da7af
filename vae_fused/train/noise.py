"""The noise of a run: a key for every item of every pass.

With keys the noise of an item is a function of the run's seed, the epoch and the item. It does not depend on the batch
size, the order of the batches, the number of steps before, or the device, so no generator state has to be kept.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor


class Stream(IntEnum):
    """What noise is for; streams of one seed never share a key."""

    TRAINING = 0
    HELD_OUT = 1
    PRIOR = 2


def _key_seed(stream: Stream, seed: int) -> int:
    return (int(stream) << 32) | seed


def item_keys(stream: Stream, seed: int, epoch: int, items: Tensor, num_items: int, latent_dim: int) -> Tensor:
    """One key per item.

    Args:
        stream: what the noise is for.
        seed: the run's seed, below 2**32.
        epoch: which pass over the data.
        items: int64 indices of the items, ``[B]``.
        num_items: number of items of the data set.
        latent_dim: number of latents, float32.

    Returns:
        uint64 keys, ``[B, 2]``, on the device of ``items``.
    """
    # Four float32 normals come from one counter value: each item of each epoch takes its own range of counters.
    counters = (latent_dim + 3) // 4
    offset = (epoch * num_items + items) * counters
    return torch.stack([torch.full_like(offset, _key_seed(stream, seed)), offset], dim=1).view(torch.uint64)


def prior_key(seed: int) -> Tensor:
    """The key of the samples from the prior."""
    return torch.tensor([_key_seed(Stream.PRIOR, seed), 0], dtype=torch.uint64)
