"""Results larger than the caches, which are stored past them, are to the bit those of the same items in small batches.

Such stores need whole vectors at aligned addresses, which items of 20 elements do not give.
"""

from __future__ import annotations

import pytest
import torch
from helpers.inputs import images, keys_of, latents

import vae_fused as vf

BYTES = 26 << 20  # a little more than csrc/cpu/parallel.h keeps in the caches
DTYPES = [torch.bfloat16, torch.float32, torch.float64]
# Shorter than a vector, no multiple of one, one of eight but not of sixteen, whole vectors, and longer than a tile.
ITEMS = [3, 20, 24, 32, 1100]


def sampled(mu, logvar, keys):
    leaves = [t.detach().requires_grad_() for t in (mu, logvar)]
    z, kl = vf.reparameterize_with_kl(*leaves, key=keys)
    return z.detach(), kl.detach(), *torch.autograd.grad(z.sum() + kl.sum(), leaves)


def diverged(mu, logvar, _):
    leaves = [t.detach().requires_grad_() for t in (mu, logvar)]
    elements = vf.kl_divergence(*leaves, reduction="none")
    return elements.detach(), *torch.autograd.grad(elements.sum(), leaves)


def scored(recon_loss):
    def score(recon, target, _):
        leaves = [t.detach().requires_grad_() for t in (recon, target)]
        loss = vf.elbo_loss(*leaves, kl=torch.zeros(len(recon)), recon_loss=recon_loss, reduction="sample")
        return loss.detach(), *torch.autograd.grad(loss.sum(), leaves)

    return score


CALLS = {"sampling": sampled, "divergence": diverged, "mse": scored("mse"), "l1": scored("l1")}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_items_of_a_large_batch(dtype, item, call):
    count = BYTES // (item * dtype.itemsize) + 1
    operands = (images if call not in (sampled, diverged) else latents)((257, item), dtype)
    repeats = -(-count // 257)
    keys = keys_of(list(range(257)))
    whole = call(
        *(t.repeat(repeats, 1) for t in operands), keys.view(torch.int64).repeat(repeats, 1).view(torch.uint64)
    )
    for large, small in zip(whole, call(*operands, keys), strict=True):
        assert torch.equal(large, small.repeat(repeats, *[1] * (small.dim() - 1)))
