"""Operands of losses whose gradient takes the place of the reconstruction."""

from __future__ import annotations

import torch

from helpers import eager
from helpers.inputs import images, latents

SHAPE = (4, 3, 5)


def operands_of(device, dtype=torch.float64, shape=SHAPE):
    """Leaves x, mu, logvar and the target, the same in every call."""
    torch.manual_seed(7)
    x, target = images(shape, dtype, device)
    x, mu, logvar = eager.leaves(x, *latents((shape[0], 6), dtype, device))
    return x, target, mu, logvar


def produced(x):
    """What a layer returns: the same numbers in new memory, and nobody saved it."""
    return x.add(0.0)


def gradients_of(leaves, loss, factor=1.0):
    """The gradients of the leaves for that incoming gradient."""
    return torch.autograd.grad(loss, leaves, grad_outputs=torch.tensor(factor, dtype=loss.dtype, device=loss.device))
