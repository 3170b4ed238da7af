"""Prints the errors that docs/numerics.md states: ``python benchmarks/accuracy.py``."""

from __future__ import annotations

import torch

import vae_fused as vf

EPSILON = 2.0**-23  # of float32


def error_of_normals(dtype: torch.dtype) -> tuple[float, float]:
    """Largest distance of 2**22 normals from plain PyTorch's: absolute, and in units of eps * (|x| + 1)."""
    key = torch.tensor([42, 0], dtype=torch.uint64)
    ours = vf.standard_normal(key, (1 << 22,), dtype=dtype).double()
    plain = vf.reference.standard_normal(key, (1 << 22,), dtype=dtype).double()
    distance = (ours - plain).abs()
    return distance.max().item(), (distance / (torch.finfo(dtype).eps * (plain.abs() + 1))).max().item()


def true_kl(logvar: torch.Tensor) -> torch.Tensor:
    """(e^x - 1 - x) / 2 in float64, by its series where the difference would cancel."""
    x = logvar.double()
    series = x * x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7)))))
    return 0.5 * torch.where(x.abs() < 1e-2, series, torch.expm1(x) - x)


def error_of_kl(logvar: torch.Tensor) -> tuple[float, float]:
    """Largest relative error of the unit KL at mu = 0, in units of eps: ours, and -(1 + logvar - exp(logvar)) / 2."""
    truth = true_kl(logvar)
    ours = vf.kl_divergence(torch.zeros_like(logvar), logvar, reduction="none").double()
    usual = (-0.5 * (1 + logvar - logvar.exp())).double()
    scale = EPSILON * truth
    return ((ours - truth).abs() / scale).max().item(), ((usual - truth).abs() / scale).max().item()


def main() -> None:
    """Print one line for each statement."""
    print(f"CPU kernels: {vf.build_info()['cpu_capability']}")
    for dtype in (torch.float32, torch.float64):
        absolute, scaled = error_of_normals(dtype)
        print(f"{dtype} normals against plain PyTorch: {absolute:.2e} at most, {scaled:.1f} eps (|x| + 1)")
    for name, logvar in (
        ("1e-8 <= logvar <= 0.1", torch.logspace(-8, -1, 100_001)),
        ("0.1 <= |logvar| <= 80", torch.cat([torch.linspace(-80, -0.1, 200_001), torch.linspace(0.1, 80, 200_001)])),
    ):
        ours, usual = error_of_kl(logvar)
        print(f"unit KL, {name}: {ours:.1f} eps relative; the usual formula {usual:.1e} eps")


if __name__ == "__main__":
    main()
