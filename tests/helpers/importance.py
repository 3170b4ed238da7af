"""A small posterior with a decoder, for importance weights."""

from __future__ import annotations

import torch

from helpers.inputs import images, latents


def linear_decoder(weight):
    """A decoder with one non-linearity."""
    return lambda z: torch.tanh(z) @ weight


def small_problem(device, count=3):
    """x, mu, logvar and the weight of a decoder, in float64."""
    x, _ = images((count, 4), torch.float64, device)
    return (x, *latents((count, 2), torch.float64, device), torch.randn(2, 4, dtype=torch.float64).to(device))
