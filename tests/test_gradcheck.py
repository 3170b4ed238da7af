"""First and second derivatives of every operator by finite differences in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers import eager
from helpers.inputs import images, key_of, keys_of, latents
from torch.autograd import gradcheck, gradgradcheck

import vae_fused as vf

F64 = torch.float64
SHAPES = [(3,), (2, 3, 2)]


def check(function, tensors, mask):
    """Both checks, with the inputs that ``mask`` names differentiable and the others constant."""
    inputs = [t.detach().clone().requires_grad_(wanted) for t, wanted in zip(tensors, mask, strict=True)]
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def masks(count):
    return [mask for mask in itertools.product([True, False], repeat=count) if any(mask)]


def mask_id(mask):
    return "".join("g" if wanted else "-" for wanted in mask)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("num_samples", [None, 3])
@pytest.mark.parametrize("per_item", [False, True], ids=["one key", "key per item"])
@pytest.mark.parametrize("mask", masks(2), ids=mask_id)
def test_reparameterize(device, shape, num_samples, per_item, mask):
    key = keys_of(list(range(shape[0])), device) if per_item else key_of(3, 1, device)
    check(lambda m, v: vf.reparameterize(m, v, num_samples=num_samples, key=key), latents(shape, F64, device), mask)


@pytest.mark.parametrize("num_samples", [None, 3])
def test_reparameterize_by_generator(device, num_samples):
    generator = torch.Generator(device)

    def sample(mu, logvar):
        return vf.reparameterize(mu, logvar, num_samples=num_samples, generator=generator.manual_seed(5))

    check(sample, latents((3, 2), F64, device), (True, True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("per_item", [False, True], ids=["one key", "key per item"])
@pytest.mark.parametrize("mask", masks(2), ids=mask_id)
def test_reparameterize_with_kl(device, shape, per_item, mask):
    key = keys_of(list(range(shape[0])), device) if per_item else key_of(3, 1, device)
    operands = latents(shape, F64, device)
    check(lambda m, v: vf.reparameterize_with_kl(m, v, key=key), operands, mask)
    for output in (0, 1):
        check(lambda m, v, o=output: vf.reparameterize_with_kl(m, v, key=key)[o], operands, mask)


def test_reparameterize_with_kl_by_generator(device):
    generator = torch.Generator(device)
    check(
        lambda m, v: vf.reparameterize_with_kl(m, v, generator=generator.manual_seed(5)),
        latents((3, 2), F64, device),
        (True, True),
    )


@pytest.mark.parametrize("reduction", [*eager.REDUCTIONS, "none"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mask", masks(2), ids=mask_id)
def test_kl_divergence(device, shape, reduction, mask):
    check(lambda m, v: vf.kl_divergence(m, v, reduction=reduction), latents(shape, F64, device), mask)


@pytest.mark.parametrize("reduction", [*eager.REDUCTIONS, "none"])
@pytest.mark.parametrize("prior_shape", [(2, 3, 2), (2,), (), (1, 3, 1)], ids=str)
def test_kl_divergence_from_a_prior(device, prior_shape, reduction):
    prior = latents(prior_shape, F64, device)
    operands = (*latents((2, 3, 2), F64, device), *prior)
    chosen = masks(4) if prior_shape == (2,) else [(True,) * 4]
    for mask in chosen:
        check(lambda m, v, pm, pv: vf.kl_divergence(m, v, pm, pv, reduction=reduction), operands, mask)
    check(lambda m, v, pm: vf.kl_divergence(m, v, pm, reduction=reduction), operands[:3], (True,) * 3)
    check(
        lambda m, v, pv: vf.kl_divergence(m, v, None, pv, reduction=reduction), (*operands[:2], prior[1]), (True,) * 3
    )


@pytest.mark.parametrize("reduction", eager.REDUCTIONS)
@pytest.mark.parametrize("mask", masks(4), ids=mask_id)
def test_elbo_loss(device, reduction, mask):
    operands = (*images((2, 3), F64, device), *latents((2, 2), F64, device))
    check(lambda r, t, m, v: vf.elbo_loss(r, t, m, v, beta=0.7, reduction=reduction), operands, mask)


@pytest.mark.parametrize("reduction", eager.REDUCTIONS)
@pytest.mark.parametrize("others", [True, False], ids=["all", "beta alone"])
def test_elbo_loss_in_beta(device, reduction, others):
    beta = torch.tensor(0.7, dtype=F64, device=device)
    operands = (*images((3, 2), F64, device), *latents((3, 2), F64, device), beta)
    check(lambda r, t, m, v, b: vf.elbo_loss(r, t, m, v, beta=b, reduction=reduction), operands, (*[others] * 4, True))


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "sample"])
@pytest.mark.parametrize("mask", masks(4), ids=mask_id)
def test_elbo_loss_with_given_kl(device, reduction, mask):
    kl = vf.kl_divergence(*latents((3, 4), F64, device), reduction="sample")
    beta = torch.tensor(0.7, dtype=F64, device=device)
    operands = (*images((3, 2), F64, device), kl, beta)
    check(lambda r, t, k, b: vf.elbo_loss(r, t, kl=k, beta=b, reduction=reduction), operands, mask)


def test_through_the_whole_objective(device):
    key = key_of(3, 0, device)
    target, _ = images((3, 4), F64, device)
    weight = torch.randn(2, 4, dtype=F64).to(device)

    def objective(mu, logvar, weight):
        z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
        return vf.elbo_loss(z @ weight, target, kl=kl, beta=0.5)

    check(objective, (*latents((3, 2), F64, device), weight), (True,) * 3)


def test_strided_operands(device):
    key = key_of(3, 0, device)
    heads = torch.randn(2, 4, 2, 3, dtype=F64).to(device).contiguous(memory_format=torch.channels_last)

    def objective(heads):
        mu, logvar = heads.chunk(2, dim=1)
        z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
        return vf.elbo_loss(z, z.mT.contiguous().mT * 0.5, mu.transpose(0, 1)[0:2].transpose(0, 1), logvar), kl

    check(objective, (heads,), (True,))
