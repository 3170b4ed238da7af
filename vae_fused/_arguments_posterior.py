"""Checks of how the scale of a posterior is stored: parameterization, epsilon, clamp, temperature and mask.

``csrc/scale_form.cpp`` and ``csrc/checks.cpp`` have the same checks with the same words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fused._checks import (
    FLOATING_DTYPES,
    check_choice,
    check_dense,
    check_expands,
    check_number,
    check_same_device,
    type_name,
)

PARAMETERIZATIONS = ("logvar", "log_std", "std", "var", "exp_std", "exp_var", "softplus_std", "softplus_var")
CLAMPS = ("hard", "soft", "straight_through")


def _check_finite_and_not_negative(name: str, value: object) -> None:
    check_number(name, value)
    assert isinstance(value, (int, float, torch.SymFloat, torch.SymInt))  # established by check_number
    if not value >= 0 or value == math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {float(value):g}")


def clamp_bounds(logvar_clamp: Sequence[float] | None) -> tuple[float, float]:
    """The bounds of a clamp of logvar, infinite for None; raise unless they are a pair of real numbers."""
    if logvar_clamp is None:
        return -math.inf, math.inf
    if not isinstance(logvar_clamp, (tuple, list)):
        raise TypeError(f"logvar_clamp must be a pair of numbers or None, got {type_name(logvar_clamp)}")
    if len(logvar_clamp) != 2:
        raise ValueError(f"logvar_clamp must be (low, high), got {len(logvar_clamp)} values")
    for bound in logvar_clamp:
        if isinstance(bound, bool) or not isinstance(bound, (int, float)):
            raise TypeError(f"logvar_clamp must hold numbers, got {type_name(bound)}")
    low, high = logvar_clamp
    return float(low), float(high)


def check_scale(
    parameterization: str, epsilon: float, logvar_clamp: Sequence[float] | None, clamp: str, dtype: torch.dtype
) -> None:
    """Raise unless the four say how a scale of this dtype is stored."""
    check_choice("parameterization", parameterization, PARAMETERIZATIONS)
    _check_finite_and_not_negative("epsilon", epsilon)
    check_choice("clamp", clamp, CLAMPS)
    if logvar_clamp is None:
        if clamp != "hard":
            raise ValueError(f"clamp={clamp!r} needs logvar_clamp, got None")
        return
    low, high = clamp_bounds(logvar_clamp)
    if not low <= high:
        raise ValueError(f"logvar_clamp must be (low, high) with low <= high, got ({low:g}, {high:g})")
    if clamp != "soft" or not dtype.is_floating_point:
        return
    largest = torch.finfo(dtype).max
    if not (low < high and low >= -largest and high <= largest):
        raise ValueError(f"clamp='soft' needs a finite logvar_clamp with low < high, got ({low:g}, {high:g})")


def check_temperature(temperature: float) -> None:
    """Raise unless ``temperature`` is a finite number, 0 or more."""
    _check_finite_and_not_negative("temperature", temperature)


def check_mask(mask: Tensor | None, mu: Tensor) -> None:
    """Raise unless the mask is absent, or bool or floating and expands to the shape of mu, without a gradient."""
    if mask is None:
        return
    check_dense("mask", mask)
    if mask.dtype not in (torch.bool, *FLOATING_DTYPES):
        raise TypeError(f"mask must be bool, float16, bfloat16, float32 or float64, got {mask.dtype}")
    check_same_device("mask", mask, "mu", mu)
    check_expands("mask", mask, "mu", mu)
    if mask.requires_grad:
        raise ValueError("mask must not require a gradient: it has none")
