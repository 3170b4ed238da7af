"""Operands of an output layer with its loss, and the same in two steps."""

from __future__ import annotations

import torch
from torch import Tensor

import vae_fused as vf

NAMES = ("hidden", "weight", "bias", "target", "mu", "logvar")


def operands(
    rows: tuple[int, ...] = (6,),
    features: tuple[int, int] = (5, 7),
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    target_dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """By name, with ``rows`` (the batch first), and ``features`` in and out; every one a leaf that requires grad."""
    width_in, width_out = features
    made = {
        "hidden": torch.randn(*rows, width_in, dtype=torch.float64),
        "weight": torch.randn(width_out, width_in, dtype=torch.float64) / max(width_in, 1) ** 0.5,
        "bias": torch.randn(width_out, dtype=torch.float64),
        "target": torch.randn(*rows, width_out, dtype=torch.float64),
        "mu": torch.randn(rows[0], 3, dtype=torch.float64),
        "logvar": torch.randn(rows[0], 3, dtype=torch.float64),
    }
    dtypes = {"target": target_dtype or dtype}
    return {name: t.to(device, dtypes.get(name, dtype)).requires_grad_() for name, t in made.items()}


def copies(leaves: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Leaves of their own with the same values; requires_grad as it was."""
    return {name: t.detach().clone().to(dtype or t.dtype).requires_grad_(t.requires_grad) for name, t in leaves.items()}


def in_two_steps(hidden, weight, bias, target, mu=None, logvar=None, **settings):
    """The layer, then the loss."""
    return vf.elbo_loss(torch.nn.functional.linear(hidden, weight, bias), target, mu, logvar, **settings)


def gradients(loss: Tensor, leaves: dict[str, Tensor]) -> list[Tensor]:
    """Of a loss whose values have different incoming gradients, none of them 1."""
    incoming = torch.arange(3, 3 + loss.numel(), dtype=loss.dtype, device=loss.device).reshape(loss.shape)
    return list(torch.autograd.grad(loss, [t for t in leaves.values() if t.requires_grad], incoming))
