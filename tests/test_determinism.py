"""Sums are the same to the bit on any number of threads and in every run, and right to the last rounding."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import eager
from helpers.inputs import images, key_of, latents
from helpers.threads import threads
from helpers.tolerances import ROUNDING

import vae_fused as vf

SHAPES = [(10, 100), (1, 4001), (40_003,), (7, 3, 5, 1009), (64, 20_001), (1000, 1)]
CASES = [*((shape, reduction) for shape in SHAPES for reduction in eager.REDUCTIONS), ((3, 3_333_335), "batchmean")]


def bits(result):
    return [t.detach().cpu() for t in result]


def scores(operands, reduction, key):
    leaves = eager.leaves(*operands)
    loss, reconstruction, kl = vf.elbo_loss(*leaves, reduction=reduction, return_terms=True)
    gradients = torch.autograd.grad(loss.sum() * 0.7, leaves)
    divergence = vf.kl_divergence(*operands[2:], reduction=reduction)
    z, per_item = vf.reparameterize_with_kl(*operands[2:], key=key)
    return bits([loss, reconstruction, kl, *gradients, divergence, z, per_item])


@pytest.mark.parametrize(("shape", "reduction"), CASES, ids=str)
def test_threads_and_runs(shape, reduction):
    operands = (*images(shape), *latents(shape))
    results = []
    for count in (1, 2, 2, 3) if math.prod(shape) < 10**6 else (1, 2):
        with threads(count):
            results.append(scores(operands, reduction, key_of(1)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("shape", "reduction"), CASES, ids=str)
@pytest.mark.gpu
def test_runs_on_a_gpu(shape, reduction):
    operands = (*images(shape, device="cuda"), *latents(shape, device="cuda"))
    results = [scores(operands, reduction, key_of(1, 0, "cuda")) for _ in range(5)]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_squared_error_is_right_to_its_rounding(device, shape):
    # Squares of small integers are exact in float32, so what is left is the error of the sum.
    recon = torch.randint(0, 2000, shape).to(device, torch.float32)
    target = torch.zeros(shape, device=device)
    mu = torch.zeros(shape[0], device=device)
    exact = recon.long().square().sum().item()
    total = vf.elbo_loss(recon, target, mu, mu, reduction="sum").item()
    # float32 accumulators may hold a few sums beyond 2**24 before they are flushed to float64: 1e-9 of the whole.
    assert abs(total - exact) <= (ROUNDING[torch.float32] + 1e-9) * exact
    per_item = vf.elbo_loss(recon, target, mu, mu, reduction="sample").double()
    items = recon.long().square().view(shape[0], -1).sum(1).double()
    assert ((per_item - items).abs() <= (ROUNDING[torch.float32] + 2e-7) * items).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_sums_are_right(device, shape):
    recon, target = images(shape, torch.float64, device)
    mu, logvar = latents(shape, torch.float64, device)
    terms = vf.elbo_loss(recon, target, mu, logvar, reduction="sum", return_terms=True)
    exact = math.fsum((recon - target).square().flatten().tolist())
    assert abs(terms.reconstruction.item() / exact - 1) < 1e-13
    exact = math.fsum((0.5 * (mu.square() + torch.expm1(logvar) - logvar)).flatten().tolist())
    assert abs(terms.kl.item() / exact - 1) < 1e-13
    assert abs(vf.kl_divergence(mu, logvar, reduction="sum").item() / exact - 1) < 1e-13


def test_sum_of_ten_million_squared_normals(device):
    # What a naive float32 sum loses here is 1e-5 and more.
    noise = vf.standard_normal(key_of(12, 0, device), (10, 1_000_003))
    zero = torch.zeros(10, device=device)
    ours = vf.elbo_loss(noise, torch.zeros_like(noise), zero, zero, reduction="sum").item()
    exact = math.fsum(noise.double().square().flatten().tolist())
    assert abs(ours / exact - 1) <= ROUNDING[torch.float32] + 1e-9
