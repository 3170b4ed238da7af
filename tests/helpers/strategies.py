"""Hypothesis strategies: tensors of any shape, strides and dtype, with the operands of one call at one shape."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from helpers.layouts import LAYOUTS
from helpers.tolerances import DTYPES

dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**64 - 1)
# Mostly small; the last size makes items longer than a tile of the CPU kernels and no multiple of a vector.
shapes = st.one_of(
    st.lists(st.integers(0, 9), min_size=1, max_size=5).map(tuple),
    st.tuples(st.integers(1, 5), st.sampled_from([1023, 1025, 2051])),
)


@st.composite
def keys(draw: st.DrawFn, batch: int) -> Tensor:
    pairs = [[draw(seeds), draw(seeds)] for _ in range(batch if draw(st.booleans()) else 0)]
    if pairs:
        return torch.tensor(pairs, dtype=torch.uint64)
    return torch.tensor([draw(seeds), draw(seeds)], dtype=torch.uint64)


@st.composite
def operands(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = (spread * torch.randn(shape, dtype=torch.float64, generator=generator)).to(dtype)
    if values.numel() == 0 or values.dim() == 0:
        return values
    arranged = draw(st.sampled_from(sorted(LAYOUTS)))
    permutation = draw(st.permutations(range(len(shape))))
    inverse = [permutation.index(dim) for dim in range(len(shape))]
    if draw(st.booleans()):  # dimensions in any order in memory
        values = values.permute(permutation).contiguous().permute(inverse)
    return LAYOUTS[arranged](values)
