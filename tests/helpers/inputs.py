"""Random operands and keys."""

from __future__ import annotations

import torch
from torch import Tensor

# Ranks 1 to 5; none divides by 4, the last two reach over a tile of the CPU kernels, as one item and as many.
SHAPES = ((7,), (5, 3), (3, 4, 5), (2, 3, 4, 5), (2, 3, 2, 3, 3), (3, 1501), (1031, 3))


def key_of(seed: int, offset: int = 0, device: torch.device | str = "cpu") -> Tensor:
    return torch.tensor([seed % 2**64, offset % 2**64], dtype=torch.uint64, device=device)


def keys_of(seeds: list[int], device: torch.device | str = "cpu") -> Tensor:
    return torch.tensor([[seed % 2**64, 10 * i] for i, seed in enumerate(seeds)], dtype=torch.uint64, device=device)


def latents(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    mu = torch.randn(shape, dtype=torch.float64)
    logvar = torch.randn(shape, dtype=torch.float64) - 0.5
    return mu.to(device, dtype), logvar.to(device, dtype)


def images(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    target_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    target = torch.rand(shape, dtype=torch.float64)
    recon = target + 0.3 * torch.randn(shape, dtype=torch.float64)
    return recon.to(device, dtype), target.to(device, target_dtype or dtype)


def cancelling_terms(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Magnitudes [B, ...] and signs [B, ...] of terms of whose order their sum in float64 depends.

    What is added to a large one is rounded to an integer, and for every large one there is another of the other sign.
    """
    magnitudes, signs = torch.rand(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64)
    places = torch.rand(shape).flatten(1).argsort(dim=1)[:, : magnitudes[0].numel() // 8 * 2]
    magnitudes.flatten(1).scatter_(1, places, 2.0**52)
    signs.flatten(1).scatter_(1, places[:, ::2], -1.0)
    return magnitudes, signs
