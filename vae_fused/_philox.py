"""Philox4x32-10 and Box-Muller in plain PyTorch: the noise of a key, element by element.

The layout is the one of PyTorch's stateless generator. Element ``i`` of a float32 draw is lane ``i % 4`` of
the Philox block with key ``seed`` and 64-bit counter ``offset + i // 4``; a float64 draw has two lanes a block.
Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fused._transforms import inside_transform

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def _high_low(multiplier: int, word: Tensor) -> tuple[Tensor, Tensor]:
    # The product of two 32-bit words wraps into the sign bit of an int64; the mask takes the sign away again.
    product = word * multiplier
    return (product >> 32) & _WORD, product & _WORD


def philox_words(counter: Tensor, seed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four 32-bit words of each Philox block.

    ``counter`` and ``seed`` are int64 tensors that hold the bits of unsigned 64-bit integers and broadcast against
    each other; the words come back as int64 tensors in ``[0, 2**32)``. Counter words 2 and 3 are zero.
    """
    counter, seed = torch.broadcast_tensors(counter, seed)
    word0, word1 = counter & _WORD, (counter >> 32) & _WORD
    word2 = word3 = torch.zeros_like(counter)
    key0, key1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(_ROUNDS):
        high0, low0 = _high_low(_MULTIPLIERS[0], word0)
        high1, low1 = _high_low(_MULTIPLIERS[1], word2)
        word0, word1, word2, word3 = high1 ^ word1 ^ key0, low1, high0 ^ word3 ^ key1, low0
        key0, key1 = (key0 + _WEYL[0]) & _WORD, (key1 + _WEYL[1]) & _WORD
    return word0, word1, word2, word3


def _box_muller(u1: Tensor, u2: Tensor) -> tuple[Tensor, Tensor]:
    radius = torch.sqrt(-2.0 * torch.log(u1))
    angle = (2.0 * math.pi) * u2
    return radius * torch.cos(angle), radius * torch.sin(angle)


def _uniform32(word: Tensor) -> Tensor:
    # In (0, 1]: rounded to float32 before the half step is added, as PyTorch and cuRAND do.
    return word.to(torch.float32) * 2.0**-32 + 2.0**-33


def _uniform64(high: Tensor, low: Tensor) -> Tensor:
    value = high.to(torch.float64) * 2.0**32 + low.to(torch.float64)
    return value * 2.0**-64 + 2.0**-65


def normals(key: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """``count`` standard normals of each key, float32 or float64.

    ``key`` is uint64 of shape ``(2,)`` or ``(B, 2)``; the result has shape ``(count,)`` or ``(B, count)``.
    """
    lanes = 2 if dtype == torch.float64 else 4
    bits = key.view(torch.int64)
    seed, offset = bits[..., 0:1], bits[..., 1:2]
    block = torch.arange((count + lanes - 1) // lanes, dtype=torch.int64, device=key.device)
    word0, word1, word2, word3 = philox_words(offset + block, seed)
    if dtype == torch.float64:
        lane_values = [*_box_muller(_uniform64(word0, word1), _uniform64(word2, word3))]
    else:
        front = _box_muller(_uniform32(word0), _uniform32(word1))
        lane_values = [*front, *_box_muller(_uniform32(word2), _uniform32(word3))]
    return torch.stack(lane_values, dim=-1).flatten(-2)[..., :count]


def draw_key(device: torch.device, generator: torch.Generator | None) -> Tensor:
    """A fresh key (seed, 0) from the generator: on a CPU one 64-bit draw, exactly as the CPU kernels take it."""
    if inside_transform() or torch.compiler.is_compiling():
        # vmap and Dynamo know randint; under vmap it is one value for all or one for each, as its randomness= says. It
        # adds its lower bound to the 64 bits that it draws, which turns their sign bit over.
        seed = torch.randint(-(2**63), 2**63 - 1, (1,), device=device, generator=generator) ^ -(2**63)
    else:
        seed = torch.empty(1, dtype=torch.int64, device=device).random_(-(2**63), None, generator=generator)
    # The bits of view(torch.uint64), which vmap of PyTorch 2.11 does not know: the conversion is modulo 2**64.
    return torch.cat([seed, torch.zeros_like(seed)]).to(torch.uint64)


def normals_of_shape(key: Tensor, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Normals of shape ``size``: of one key, or with ``(B, 2)`` keys item ``i`` of dimension 0 from key ``i`` alone."""
    if key.dim() == 1:
        return normals(key, math.prod(size), dtype).view(size)
    return normals(key, math.prod(size[1:]), dtype).view(size)
