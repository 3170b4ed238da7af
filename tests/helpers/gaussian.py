"""The distribution over packed moments as people write it in PyTorch: chunk, clamp, formulas. The truth in float64."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import vae_fused as vf
from helpers import eager
from helpers.tolerances import accumulation_dtype

CLAMP = (-1.5, 1.0)
# Shape of the moments and the dimension that holds both halves; ranks 2 to 6, sizes that no vector divides.
SHAPES = [
    ((5, 6), 1),
    ((3, 10, 7), 1),
    ((3, 4, 10), -1),
    ((2, 6, 4, 5), 1),
    ((2, 3, 4, 6), -2),
    ((2, 8, 3, 4, 3), 1),
    ((2, 3, 2, 6, 2), 3),
    ((2, 4, 2, 3, 2, 2), 1),
    ((2, 3002), 1),
    ((1031, 4), 1),
    ((2, 8, 16, 16), 1),
]
on_shapes = pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=lambda value: str(value))


def moments_of(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Values well inside, beyond and exactly at the bounds of ``CLAMP``."""
    values = 1.5 * torch.randn(shape, dtype=torch.float64)
    at_bound = torch.rand(shape) < 0.2
    values[at_bound] = torch.where(torch.rand(int(at_bound.sum())) < 0.5, CLAMP[0], CLAMP[1]).double()
    return values.to(device, dtype)


class Plain(NamedTuple):
    """Mean and clamped log-variance."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def of(cls, moments: Tensor, dim: int, clamp: tuple[float, float] | None = CLAMP) -> Plain:
        mean, logvar = moments.chunk(2, dim=dim)
        return cls(mean, logvar if clamp is None else logvar.clamp(*clamp))

    def sample(self, noise: Tensor) -> Tensor:
        return eager.reparameterize(self.mean, self.logvar, noise)

    def kl(self, other: Plain | None = None) -> Tensor:
        prior = (None, None) if other is None else other
        return eager.kl_divergence(self.mean, self.logvar, *prior, reduction="sample")


def noise_of(key: Tensor, like: Tensor) -> Tensor:
    """What a sample of this shape and dtype draws, in float64."""
    return vf.standard_normal(key, like.shape, dtype=accumulation_dtype(like.dtype)).double()
