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
# On a GPU sigma is an approximate power of two: what docs/numerics.md gives for sigma^2 - 1 - log sigma^2.
ARITHMETIC_OF_GPU = {torch.float32: 2e-6, torch.float64: 1e-15}
LOSS_OF_GPU = {torch.float32: 2e-6, torch.float64: 1e-14}


def approximates(device: torch.device | str) -> bool:
    """Whether the kernels of the device use approximate instructions."""
    return torch.device(device).type == "cuda"


def normal_error(dtype: torch.dtype, device: torch.device | str = "cpu") -> float:
    return (NORMAL_OF_GPU if approximates(device) else NORMAL)[dtype]


def arithmetic_error(dtype: torch.dtype, device: torch.device | str = "cpu") -> float:
    return (ARITHMETIC_OF_GPU if approximates(device) else ARITHMETIC)[dtype]


def loss_error(dtype: torch.dtype, device: torch.device | str = "cpu") -> float:
    return (LOSS_OF_GPU if approximates(device) else LOSS)[dtype]


def between_kernels(dtype: torch.dtype, device: torch.device | str) -> dict[str, float]:
    """For the same values out of two kernels: to the bit on a CPU.

    On a GPU the compiler decides in each kernel which products and sums become one rounding, and a group of elements
    that is summed at once has another size where vectors are moved.
    """
    if not approximates(device):
        return {"rtol": 0.0, "atol": 0.0}
    error = 2 * ROUNDING[dtype] + arithmetic_error(torch.float64 if dtype == torch.float64 else torch.float32, device)
    return {"rtol": error, "atol": error}


def between_batch_sizes(dtype: torch.dtype, device: torch.device | str) -> dict[str, float]:
    """For PyTorch's own sums over an item in batches of two sizes: to the bit on a CPU; a GPU's order depends on it."""
    if not approximates(device):
        return {"rtol": 0.0, "atol": 0.0}
    return {"rtol": 1e-14 if dtype == torch.float64 else 1e-6, "atol": 0.0}


def accumulation_dtype(*dtypes: torch.dtype) -> torch.dtype:
    return torch.float64 if torch.float64 in dtypes else torch.float32


def assert_loss_close(ours: Tensor, truth: Tensor) -> None:
    """Relative to the value itself: losses and divergences are sums of terms of one sign."""
    torch.testing.assert_close(
        ours.double(), truth.double(), rtol=loss_error(ours.dtype, ours.device), atol=1e-30, equal_nan=True
    )


def assert_rounded_once(ours: Tensor, truth: Tensor, scale: Tensor | float, arithmetic: float | None = None) -> None:
    """Elementwise: the error of the arithmetic, relative to ``scale``, and one rounding to the dtype of ``ours``."""
    assert ours.shape == truth.shape
    if arithmetic is None:
        arithmetic = arithmetic_error(accumulation_dtype(ours.dtype), ours.device)
    truth = truth.double()
    error = (ours.double() - truth).abs()
    allowed = ROUNDING[ours.dtype] * truth.abs() * (1 + 1e-3) + UNDERFLOW[ours.dtype] + arithmetic * scale
    excess = (error - allowed).max() if error.numel() else torch.tensor(0.0)
    assert (error <= allowed).all(), f"{ours.dtype}: error beyond the allowance by {excess.item():.3e}"


def assert_as_good_as_eager(ours: Tensor, eager: Tensor, truth: Tensor) -> None:
    """No further from float64 than twice eager PyTorch, and one rounding for the case that eager is exact by luck.

    On a GPU, where eager's functions are right to their rounding, the error of our approximate ones comes on top.
    """
    assert ours.shape == truth.shape
    if truth.numel() == 0:
        return
    truth = truth.double()
    error, eager_error = ((value.double() - truth).abs().max().item() for value in (ours, eager))
    rounding = ROUNDING[ours.dtype]
    if approximates(ours.device):
        rounding += ARITHMETIC_OF_GPU[accumulation_dtype(ours.dtype)]
    allowed = 2.0 * eager_error + rounding * truth.abs().max().item() + UNDERFLOW[ours.dtype]
    assert error <= allowed, f"{ours.dtype}: error {error:.3e}, eager {eager_error:.3e}"
