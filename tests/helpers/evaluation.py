"""A model for vf.evaluate whose posterior is known, and the comparison of two results."""

from __future__ import annotations

import dataclasses

import torch

F64 = torch.float64


class Encoding:
    """A model whose posterior is written into the data: means, log-variances, and what to decode to."""

    def __init__(self, latents):
        self.latents = latents

    def encode(self, x):
        return x[:, : self.latents], x[:, self.latents :]

    def decode(self, z):
        return torch.cat([0.5 * z, z.square()], dim=1)


def posteriors(count, latents, device="cpu"):
    mu = torch.randn(count, latents, dtype=F64)
    logvar = 0.5 * torch.randn(count, latents, dtype=F64) - 1.0
    return torch.cat([mu, logvar], dim=1).to(device)


def numbers(evaluation):
    return {name: torch.as_tensor(value, dtype=F64) for name, value in dataclasses.asdict(evaluation).items()}


def assert_same(first, second, rtol):
    expected = numbers(second)
    for name, ours in numbers(first).items():
        torch.testing.assert_close(
            ours, expected[name], rtol=rtol, atol=1e-14, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )
