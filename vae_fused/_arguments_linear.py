"""Checks of the arguments of an output layer with its loss; see :mod:`vae_fused._arguments`."""

from __future__ import annotations

import torch
from torch import Tensor

from vae_fused._arguments import REDUCTIONS, check_beta, check_kl_source
from vae_fused._checks import check_choice, check_count, check_dense, check_floating, check_same_device

# Those that have no operands but the reconstruction, which may be any number, and the target.
LINEAR_RECON_LOSSES = ("mse", "l1", "smooth_l1", "bce_with_logits")


def _autocast_casts(tensor: Tensor) -> bool:
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def check_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> None:
    """Raise unless hidden ``[B, ..., H]``, weight ``[D, H]``, bias ``[D]`` and target ``[B, ..., D]`` fit together."""
    check_floating("hidden", hidden)
    if hidden.dim() < 2:
        raise ValueError(f"hidden must have shape [batch, ..., in_features], got {list(hidden.shape)}")
    check_dense("weight", weight)
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(f"weight must have shape [out_features, {hidden.shape[-1]}], got {list(weight.shape)}")
    _check_parameter("weight", weight, hidden)
    if bias is not None:
        check_dense("bias", bias)
        if bias.dim() != 1 or bias.shape[0] != weight.shape[0]:
            raise ValueError(f"bias must have shape [{weight.shape[0]}], got {list(bias.shape)}")
        _check_parameter("bias", bias, hidden)
    check_floating("target", target)
    shape = (*hidden.shape[:-1], weight.shape[0])
    if target.shape != shape:
        raise ValueError(f"target must have the shape of the reconstruction, {list(shape)}, got {list(target.shape)}")
    check_same_device("target", target, "hidden", hidden)


def _check_parameter(name: str, value: Tensor, hidden: Tensor) -> None:
    if _autocast_casts(hidden):
        check_floating(name, value)
    elif value.dtype != hidden.dtype:
        raise TypeError(f"{name} must have the dtype of hidden, {hidden.dtype}, got {value.dtype}")
    check_same_device(name, value, "hidden", hidden)


def check_linear_reconstruction(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    recon_loss: str,
    reduction: str,
    chunk: int | None,
) -> None:
    """Everything that ``linear_reconstruction`` asks of its arguments."""
    check_linear(hidden, weight, bias, target)
    check_choice("recon_loss", recon_loss, LINEAR_RECON_LOSSES)
    check_choice("reduction", reduction, REDUCTIONS)
    check_count("chunk", chunk, optional=True)


def check_linear_elbo_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    mu: Tensor | None,
    logvar: Tensor | None,
    kl: Tensor | None,
    beta: float | Tensor,
    recon_loss: str,
    reduction: str,
    chunk: int | None,
) -> None:
    """Everything that ``linear_elbo_loss`` asks of its arguments."""
    check_linear_reconstruction(hidden, weight, bias, target, recon_loss, reduction, chunk)
    check_kl_source(hidden, mu, logvar, kl, reduction, "hidden")
    check_beta(beta, hidden, "hidden")
