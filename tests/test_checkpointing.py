"""Activation checkpointing: the recomputed forward draws the noise that the first one drew."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import images, key_of, latents
from torch.utils.checkpoint import checkpoint

import vae_fused as vf


def step(mu, logvar, target, **source):
    z, kl = vf.reparameterize_with_kl(mu, logvar, **source)
    return vf.elbo_loss(torch.tanh(z), target, kl=kl)


def gradients_of(function, operands):
    leaves = eager.leaves(*operands)
    loss = function(*leaves)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def equal(a, b):
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_with_a_key(device):
    operands, (target, _) = latents((4, 6), torch.float32, device), images((4, 6), torch.float32, device)
    key = key_of(3, 0, device)
    plain = gradients_of(lambda m, v: step(m, v, target, key=key), operands)
    recomputed = gradients_of(lambda m, v: checkpoint(step, m, v, target, use_reentrant=False, key=key), operands)
    equal(plain, recomputed)


def test_with_the_default_generator(device):
    operands, (target, _) = latents((4, 6), torch.float32, device), images((4, 6), torch.float32, device)
    results = []
    for wrap in (False, True):
        torch.manual_seed(5)
        if wrap:
            results.append(gradients_of(lambda m, v: checkpoint(step, m, v, target, use_reentrant=False), operands))
        else:
            results.append(gradients_of(lambda m, v: step(m, v, target), operands))
    equal(*results)


def test_with_a_generator_of_its_own(device):
    # checkpoint saves the default generators only; one's own starts again inside the recomputed function.
    operands, (target, _) = latents((4, 6), torch.float32, device), images((4, 6), torch.float32, device)

    def seeded(mu, logvar):
        return step(mu, logvar, target, generator=torch.Generator(device).manual_seed(9))

    plain = gradients_of(seeded, operands)
    equal(plain, gradients_of(lambda m, v: checkpoint(seeded, m, v, use_reentrant=False), operands))


@pytest.mark.parametrize("reduction", eager.REDUCTIONS)
def test_recomputed_loss(device, reduction):
    operands = (*images((4, 6), torch.float32, device), *latents((4, 6), torch.float32, device))

    def loss(*o):
        return vf.elbo_loss(*o, beta=0.5, reduction=reduction).sum()

    plain = gradients_of(loss, operands)
    equal(plain, gradients_of(lambda *o: checkpoint(loss, *o, use_reentrant=False), operands))
