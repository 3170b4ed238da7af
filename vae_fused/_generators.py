"""Noise from one generator or from one for each item, on the device of the samples or on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused._philox import draw_key


def check_noise_sources(
    generator: torch.Generator | Sequence[torch.Generator] | None,
    key: Tensor | None,
    batch: int,
    device: torch.device,
) -> list[torch.Generator] | None:
    """The generators as a list, None without one; raise unless they, or else the key, fit moments of this batch."""
    if generator is None:
        if key is not None:
            arguments.check_key_for(key, batch, device)
        return None
    several = [generator] if isinstance(generator, torch.Generator) else generator
    if not isinstance(several, (list, tuple)):
        raise TypeError(f"generator must be a torch.Generator or a list of them, got {type(generator).__name__}")
    for one in several:
        if not isinstance(one, torch.Generator):
            raise TypeError(f"generator must hold torch.Generators, got {type(one).__name__}")
        if one.device.type not in ("cpu", device.type):
            raise ValueError(f"generator must be on the CPU or on the device of moments, {device}, got {one.device}")
    if key is not None:
        raise ValueError("generator and key are two sources of the same noise: give one of them, got both")
    if len(several) not in (1, batch):
        raise ValueError(f"generator must be one or hold one for each of {batch} items, got {len(several)}")
    return list(several)


def noise_of(generators: Sequence[torch.Generator], mean: Tensor) -> tuple[torch.Generator | None, Tensor | None]:
    """What draws the noise of samples like ``mean``, ``[B, ...]``: a generator on its device, or a key, ``[B, 2]``."""
    if len(generators) == 1:
        (single,) = generators
        if single.device.type == mean.device.type:
            return single, None
        return None, draw_key(single.device, single).to(mean.device)
    keys = [_key_of_item(one, mean).to(mean.device) for one in generators]
    return None, torch.stack(keys) if keys else torch.empty((0, 2), dtype=torch.uint64, device=mean.device)


def _key_of_item(generator: torch.Generator, mean: Tensor) -> Tensor:
    """The key that the kernel would draw for one item alone, taken from the generator in the same way."""
    if generator.device.type != "cuda":
        return draw_key(generator.device, generator)
    lanes = 2 if mean.dtype == torch.float64 else 4
    normals = mean.numel() // mean.shape[0]
    offset = generator.get_offset()
    generator.set_offset(offset + 4 * ((normals + lanes - 1) // lanes))
    return torch.tensor([generator.initial_seed(), offset // 4], dtype=torch.uint64)
