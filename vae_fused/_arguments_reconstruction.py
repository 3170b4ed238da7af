"""Checks of what belongs to the reconstruction term: its name, its weights, log sigma and the settings of some terms.

``csrc/checks.cpp`` has the same checks with the same words.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae_fused._arguments import RECON_LOSSES
from vae_fused._checks import (
    FLOATING_DTYPES,
    check_bool,
    check_choice,
    check_dense,
    check_expands,
    check_floating,
    check_number,
    check_same_device,
    type_name,
)

HAVE_SIGMA = ("gaussian_nll", "laplace_nll")
OPTIMAL = "optimal"

LogSigma = float | Tensor | str | None


def _check_fits(name: str, value: Tensor, recon: Tensor) -> None:
    check_expands(name, value, "recon", recon)
    check_same_device(name, value, "recon", recon)


def check_weight(weight: Tensor | None, recon: Tensor) -> None:
    """Raise unless ``weight`` is absent, or a constant floating or bool tensor that expands to the shape of recon."""
    if weight is None:
        return
    check_dense("weight", weight)
    if weight.dtype not in (torch.bool, *FLOATING_DTYPES):
        raise TypeError(f"weight must be bool, float16, bfloat16, float32 or float64, got {weight.dtype}")
    if weight.requires_grad:
        raise ValueError("weight must not require a gradient: it is a constant factor of the reconstruction")
    _check_fits("weight", weight, recon)


def check_log_sigma(log_sigma: LogSigma, recon_loss: str, floor: float | None) -> None:
    """Raise unless log sigma is there exactly where ``recon_loss`` has one, and of a type that it may have."""
    if recon_loss not in HAVE_SIGMA:
        for name, value in (("log_sigma", log_sigma), ("log_sigma_floor", floor)):
            if value is not None:
                raise ValueError(f"{name} is for recon_loss gaussian_nll and laplace_nll, got {recon_loss!r}")
        return
    if log_sigma is None:
        raise ValueError(f"log_sigma is missing, which recon_loss={recon_loss!r} needs")
    if isinstance(log_sigma, str):
        if log_sigma != OPTIMAL:
            raise ValueError(f"log_sigma must be a number, a tensor or 'optimal', got {log_sigma!r}")
        if recon_loss != "gaussian_nll":
            raise ValueError(f"log_sigma='optimal' is for recon_loss gaussian_nll, got {recon_loss!r}")
    elif isinstance(log_sigma, Tensor):
        check_floating("log_sigma", log_sigma)
    elif isinstance(log_sigma, bool) or not isinstance(log_sigma, (int, float, torch.SymFloat, torch.SymInt)):
        raise TypeError(f"log_sigma must be a number, a tensor or 'optimal', got {type_name(log_sigma)}")
    if floor is not None:
        check_number("log_sigma_floor", floor)
        if not floor < math.inf:
            raise ValueError(f"log_sigma_floor must be a number below infinity, got {floor:g}")


def check_settings(recon_loss: str, recon_weight: float, full: bool, smooth_l1_beta: float) -> None:
    """Raise unless the settings are numbers that ``recon_loss`` has a use for."""
    check_number("recon_weight", recon_weight)
    check_bool("full", full)
    if full and recon_loss not in HAVE_SIGMA:
        raise ValueError(
            f"full adds the constant of gaussian_nll or laplace_nll, which recon_loss={recon_loss!r} does not have"
        )
    check_number("smooth_l1_beta", smooth_l1_beta)
    if not 0 < smooth_l1_beta <= torch.finfo(torch.float32).max:  # not a global: Dynamo would make it an input
        raise ValueError(f"smooth_l1_beta must be positive and in the range of float32, got {smooth_l1_beta:g}")
    if recon_loss != "smooth_l1" and smooth_l1_beta != 1:
        raise ValueError(f"smooth_l1_beta is for recon_loss smooth_l1, got {recon_loss!r}")


def check_optimal(log_sigma: LogSigma, inplace: bool) -> None:
    """Raise if the optimal log sigma would be computed from memory that the call overwrites."""
    if inplace and isinstance(log_sigma, str):
        raise ValueError(
            "log_sigma must not be 'optimal' with inplace=True: it is computed from recon, which would be overwritten"
        )


def check_term(
    recon: Tensor,
    recon_loss: str,
    weight: Tensor | None,
    log_sigma: LogSigma,
    log_sigma_floor: float | None,
    recon_weight: float,
    full: bool,
    smooth_l1_beta: float,
    inplace: bool,
) -> None:
    """Everything that ``elbo_loss`` asks of the reconstruction term beside recon and target."""
    check_choice("recon_loss", recon_loss, RECON_LOSSES)
    check_log_sigma(log_sigma, recon_loss, log_sigma_floor)
    if isinstance(log_sigma, Tensor):
        _check_fits("log_sigma", log_sigma, recon)
    check_settings(recon_loss, recon_weight, full, smooth_l1_beta)
    check_weight(weight, recon)
    check_optimal(log_sigma, inplace)
