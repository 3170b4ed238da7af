"""Loops in which all operands are bfloat16: the same bits as where one is read by way of floats.

A CPU with AVX-512 has the even and the odd elements of such a loop in vectors of their own, which changes no result.
"""

from __future__ import annotations

import pytest
import torch
from helpers.inputs import cancelling_terms, images, key_of, keys_of, latents

import vae_fused as vf

# Around whole vectors, runs of noise and tiles. Of items of up to 512 elements a tile has several, and a pair of
# registers, 32 elements, has one item alone or not.
SIZES = [1, 2, 3, 20, 31, 32, 33, 48, 63, 64, 65, 95, 96, 97, 511, 512, 513, 1000, 1023, 1024, 1025, 1057, 2070]
ITEMS = 3
on_sizes = pytest.mark.parametrize("size", SIZES)


def through_floats(tensor):
    """The same values where no kernel takes them in place."""
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


def compare(function, operands):
    results = []
    for first in (operands[0], through_floats(operands[0])):
        leaves = [first.detach().requires_grad_(), *(t.clone().requires_grad_() for t in operands[1:])]
        outputs = function(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.manual_seed(1)
        incoming = [torch.rand_like(o) for o in outputs]
        results.append((*outputs, *torch.autograd.grad(outputs, leaves, incoming)))
    for in_place, by_floats in zip(*results, strict=True):
        assert torch.equal(in_place, by_floats)


@on_sizes
@pytest.mark.parametrize("key_of_item", [False, True])
def test_sampling(size, key_of_item):
    key = keys_of(list(range(ITEMS))) if key_of_item else key_of(4, 9)
    operands = latents((ITEMS, size), torch.bfloat16)
    compare(lambda m, v: vf.reparameterize_with_kl(m, v, key=key), operands)
    # Where the number of elements is no multiple of four, the noise of a sample begins within a block of four.
    compare(lambda m, v: vf.reparameterize(m, v, num_samples=3, key=key), operands)


@on_sizes
@pytest.mark.parametrize("reduction", ["none", "sample", "sum"])
def test_kl_divergence(size, reduction):
    operands = (*latents((ITEMS, size), torch.bfloat16), *latents((ITEMS, size), torch.bfloat16))
    compare(lambda m, v: vf.kl_divergence(m, v, reduction=reduction), operands[:2])
    compare(lambda *o: vf.kl_divergence(*o, reduction=reduction), operands)


@on_sizes
@pytest.mark.parametrize("reduction", ["sum", "sample"])
@pytest.mark.parametrize("recon_loss", ["mse", "l1", "bce_with_logits", "gaussian_nll"])
def test_loss(size, recon_loss, reduction):
    operands = (*images((ITEMS, size), torch.bfloat16), *latents((ITEMS, size), torch.bfloat16))
    widths = latents((ITEMS, size), torch.bfloat16)[:1] if recon_loss == "gaussian_nll" else ()

    def loss(recon, target, mu, logvar, *log_sigma):
        settings = {"log_sigma": log_sigma[0]} if log_sigma else {}
        return vf.elbo_loss(recon, target, mu, logvar, recon_loss=recon_loss, reduction=reduction, **settings)

    compare(loss, (*operands, *widths))


@on_sizes
@pytest.mark.parametrize("reduction", ["sum", "sample"])
def test_order_of_a_sum(size, reduction):
    terms, signs = (t.bfloat16() for t in cancelling_terms((ITEMS, size)))
    zeros = torch.zeros_like(terms)

    def loss(recon, target):
        return vf.elbo_loss(recon, target, zeros, zeros, recon_loss="l1", weight=signs, reduction=reduction)

    compare(loss, (terms, zeros))


@on_sizes
def test_noise(size):
    for key in (key_of(4, 9), keys_of(list(range(ITEMS)))):
        expected = vf.standard_normal(key, (ITEMS, size), dtype=torch.float32).bfloat16()
        assert torch.equal(vf.standard_normal(key, (ITEMS, size), dtype=torch.bfloat16), expected)
