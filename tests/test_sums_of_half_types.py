"""Sums of terms made of half types on the CPU: four at a time in float32, then lane by lane in float64."""

from __future__ import annotations

import pytest
import torch
from helpers.capabilities import BEST
from helpers.inputs import cancelling_terms, key_of, latents

import vae_fused as vf

pytestmark = pytest.mark.skipif(BEST is None, reason="built without the extension")

LANES = 16
ITEMS = 3
# Around the lanes of a sum and four times as many. The largest is a tile: beyond it the tiles are added up.
SIZES = [1, 15, 16, 17, 20, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 100, 128, 160, 500, 512, 513, 960, 1000, 1023, 1024]
on_sizes = pytest.mark.parametrize("size", SIZES)
on_dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def sum_in_fours(terms):
    """Of float32 terms [B, N]: [B]."""
    padded = torch.nn.functional.pad(terms, (0, -terms.shape[1] % (4 * LANES)))
    first, second, third, fourth = padded.unflatten(1, (-1, 4, LANES)).unbind(2)
    lanes = torch.zeros(len(terms), LANES, dtype=torch.float64)
    for four in ((first + third) + (second + fourth)).double().unbind(1):
        lanes += four
    while lanes.shape[1] > 1:
        lower, upper = lanes.chunk(2, dim=1)
        lanes = lower + upper
    return lanes[:, 0].float()


def with_layout(tensor, contiguous):
    return tensor if contiguous else torch.stack([tensor, tensor], dim=-1)[..., 0]


@on_sizes
@on_dtypes
@pytest.mark.parametrize("contiguous", [True, False])
def test_values(size, dtype, contiguous):
    terms, signs = cancelling_terms((ITEMS, size))
    terms = terms.clamp(max=torch.finfo(dtype).max).to(dtype)
    operands = (with_layout(t, contiguous) for t in (terms, torch.zeros_like(terms)))
    weight = with_layout(signs.to(dtype), contiguous)
    found = vf.elbo_loss(*operands, kl=torch.zeros(ITEMS), recon_loss="l1", weight=weight, reduction="sample")
    assert torch.equal(found, sum_in_fours(signs.float() * terms.float()))


@on_sizes
@on_dtypes
@pytest.mark.parametrize("contiguous", [True, False])
def test_squares(size, dtype, contiguous):
    # Of sizes so different that much of what is small is lost in float32.
    recon = (torch.randn(ITEMS, size) * 10.0 ** torch.randint(-2, 3, (ITEMS, size))).to(dtype)
    target = torch.randn(ITEMS, size).to(dtype)
    operands = (with_layout(t, contiguous) for t in (recon, target))
    found = vf.elbo_loss(*operands, kl=torch.zeros(ITEMS), reduction="sample")
    assert torch.equal(found, sum_in_fours((recon.float() - target.float()).square()))


@on_sizes
@on_dtypes
def test_kl_divergence_of_every_kernel(size, dtype):
    mu, logvar = latents((ITEMS, size), dtype)
    elements = vf.kl_divergence(mu.float(), logvar.float(), reduction="none")
    expected = sum_in_fours(elements)
    assert torch.equal(vf.kl_divergence(mu, logvar, reduction="sample"), expected)
    assert torch.equal(vf.reparameterize_with_kl(mu, logvar, key=key_of(4, 9))[1], expected)


def test_terms_of_operands_of_which_one_is_float32_are_added_one_by_one():
    # In float32 what is added to 2^26 is lost.
    recon, target = torch.full((1, 64), 0.5), torch.zeros(1, 64, dtype=torch.bfloat16)
    recon[0, ::16] = torch.tensor([2.0**26, 0.5, 0.5, 2.0**26])
    weight = torch.ones(1, 64)
    weight[0, 48] = -1.0
    found = vf.elbo_loss(recon, target, kl=torch.zeros(1), recon_loss="l1", weight=weight, reduction="sum")
    assert found.item() == 62 * 0.5


@on_dtypes
def test_a_sum_is_as_exact_as_a_float32(dtype):
    recon, target = torch.rand(4, 5000).to(dtype), torch.rand(4, 5000).to(dtype)
    exact = (recon.double() - target.double()).square().sum()
    found = vf.elbo_loss(recon, target, kl=torch.zeros(4), reduction="sum").double()
    assert (found - exact).abs() <= torch.finfo(torch.float32).eps * exact
