"""Lists of tensors side by side."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def same_bits(ours: Iterable[Tensor], expected: Iterable[Tensor]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def assert_near(ours: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    """Equal up to the rounding of a few operations in the dtype of the results."""
    torch.testing.assert_close(list(ours), list(expected))
