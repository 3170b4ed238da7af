"""4 million normals of one key: moments, tails, distribution and independence, each with its own standard error."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.inputs import key_of, keys_of

import vae_fused as vf

COUNT = 2**22
# The draws are fixed by their keys, so nothing here is flaky; a right generator is within 4 standard errors.
ALLOWED = 4.0


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=str)
def normals(request):
    return vf.standard_normal(key_of(20240607, 0), (COUNT,), dtype=request.param).double()


def tail(threshold):
    """P(|x| > threshold)."""
    return math.erfc(threshold / math.sqrt(2))


@pytest.mark.parametrize(
    ("power", "expected", "variance"), [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]
)
def test_moments(normals, power, expected, variance):
    z = (normals.pow(power).mean().item() - expected) / math.sqrt(variance / COUNT)
    assert abs(z) < ALLOWED


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 4.5])
@pytest.mark.parametrize("side", [1, -1])
def test_tails(normals, threshold, side):
    p = tail(threshold) / 2
    count = (side * normals > threshold).sum().item()
    assert abs(count - COUNT * p) / math.sqrt(COUNT * p * (1 - p)) < ALLOWED


def test_farthest_normals(normals):
    # Box-Muller on 32-bit words ends at sqrt(2 ln 2^33) = 6.77; of 2^22 draws the farthest lies near 5.2.
    assert 4.7 < normals.abs().max().item() < 6.8
    assert normals.abs().min().item() < 2e-6


def test_kolmogorov_smirnov(normals):
    ordered = normals.sort().values
    distribution = 0.5 * torch.erfc(-ordered / math.sqrt(2))
    steps = torch.arange(1, COUNT + 1, dtype=torch.float64) / COUNT
    distance = max((steps - distribution).max().item(), (distribution - steps + 1 / COUNT).max().item())
    assert distance * math.sqrt(COUNT) < 1.95  # 0.1 %


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 1024])
@pytest.mark.parametrize("power", [1, 2])
def test_neighbours_are_uncorrelated(normals, lag, power):
    values = normals if power == 1 else (normals.square() - 1) / math.sqrt(2)
    z = (values[:-lag] * values[lag:]).sum().item() / math.sqrt(COUNT - lag)
    assert abs(z) < ALLOWED


def test_lanes_are_alike(normals):
    lanes = normals.view(-1, 4)
    assert (lanes.mean(0).abs() * math.sqrt(len(lanes)) < ALLOWED).all()
    assert ((lanes.square().mean(0) - 1).abs() * math.sqrt(len(lanes) / 2) < ALLOWED).all()


def test_neighbouring_seeds_and_items_are_uncorrelated():
    draws = vf.standard_normal(keys_of(list(range(64))), (64, 2**14)).double()
    correlation = draws @ draws.T / math.sqrt(2**14)
    pairs = correlation[torch.triu(torch.ones(64, 64), 1).bool()]
    assert pairs.abs().max().item() < 5  # of 2016 pairs
    assert abs(pairs.square().mean().item() - 1) < ALLOWED * math.sqrt(2 / len(pairs))


@pytest.mark.gpu
def test_gpu_draws_the_same_distribution(normals):
    on_gpu = vf.standard_normal(key_of(20240607, 0, "cuda"), (COUNT,)).double().cpu()
    assert abs(on_gpu.mean().item()) * math.sqrt(COUNT) < ALLOWED
    assert abs(on_gpu.square().mean().item() - 1) * math.sqrt(COUNT / 2) < ALLOWED
