"""How far results may be from float64, in one place, and the assertions that use it."""

from __future__ import annotations

import torch
from torch import Tensor

HALF_TYPES = (torch.float16, torch.bfloat16)
DTYPES = (*HALF_TYPES, torch.float32, torch.float64)

# Half a unit in the last place, relative: what one rounding costs.
ROUNDING = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, torch.float64: 2.0**-53}
# Half of the smallest positive number: what one rounding costs near zero.
UNDERFLOW = {torch.float16: 2.0**-25, torch.bfloat16: 2.0**-134, torch.float32: 2.0**-150, torch.float64: 0.0}
# A few operations and one elementary function in the dtype of the arithmetic, relative to the terms that are added.
ARITHMETIC = {torch.float32: 4e-7, torch.float64: 1e-15}
# Two implementations of the same normal: log, sqrt, sin and cos of different libraries. Absolute, for |normal| < 7.
NORMAL = {torch.float32: 2e-6, torch.float64: 1e-14}
# The approximate sine and cosine of a GPU, wrong by 2^-20.9 at most (docs/numerics.md), times the largest radius.
NORMAL_OF_GPU = {torch.float32: 4e-6, torch.float64: 1e-14}
# A sum of positive terms that are right to ARITHMETIC, added in float64 and rounded once.
LOSS = {torch.float32: 4e-7, torch.float64: 1e-14}


def normal_error(dtype: torch.dtype, device: torch.device | str = "cpu") -> float:
    return (NORMAL_OF_GPU if torch.device(device).type == "cuda" else NORMAL)[dtype]


def accumulation_dtype(*dtypes: torch.dtype) -> torch.dtype:
    return torch.float64 if torch.float64 in dtypes else torch.float32


def assert_loss_close(ours: Tensor, truth: Tensor) -> None:
    """Relative to the value itself: losses and divergences are sums of terms of one sign."""
    torch.testing.assert_close(ours.double(), truth.double(), rtol=LOSS[ours.dtype], atol=1e-30, equal_nan=True)


def assert_rounded_once(ours: Tensor, truth: Tensor, scale: Tensor | float, arithmetic: float | None = None) -> None:
    """Elementwise: the error of the arithmetic, relative to ``scale``, and one rounding to the dtype of ``ours``."""
    assert ours.shape == truth.shape
    arithmetic = ARITHMETIC[accumulation_dtype(ours.dtype)] if arithmetic is None else arithmetic
    truth = truth.double()
    error = (ours.double() - truth).abs()
    allowed = ROUNDING[ours.dtype] * truth.abs() * (1 + 1e-3) + UNDERFLOW[ours.dtype] + arithmetic * scale
    excess = (error - allowed).max() if error.numel() else torch.tensor(0.0)
    assert (error <= allowed).all(), f"{ours.dtype}: error beyond the allowance by {excess.item():.3e}"


def assert_as_good_as_eager(ours: Tensor, eager: Tensor, truth: Tensor) -> None:
    """No further from float64 than twice eager PyTorch, and one rounding for the case that eager is exact by luck."""
    assert ours.shape == truth.shape
    if truth.numel() == 0:
        return
    truth = truth.double()
    error, eager_error = ((value.double() - truth).abs().max().item() for value in (ours, eager))
    allowed = 2.0 * eager_error + ROUNDING[ours.dtype] * truth.abs().max().item() + UNDERFLOW[ours.dtype]
    assert error <= allowed, f"{ours.dtype}: error {error:.3e}, eager {eager_error:.3e}"
