"""z = mu + sigma * noise and its gradients against float64, for every dtype, rank and number of samples."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import SHAPES, key_of, keys_of, latents
from helpers.tolerances import (
    DTYPES,
    accumulation_dtype,
    assert_as_good_as_eager,
    assert_rounded_once,
    loss_error,
    normal_error,
)

import vae_fused as vf

F16, BF16, F32, F64 = DTYPES
SAMPLES = [None, 1, 3]


def noise_for(key, shape, num_samples, dtype):
    """The noise of z in float64, as the reference draws it: item i of a key per item has the shape of z[:, i]."""
    accumulate = accumulation_dtype(dtype)
    if num_samples is None:
        noise = vf.reference.standard_normal(key, shape, dtype=accumulate)
    elif key.dim() == 1:
        noise = vf.reference.standard_normal(key, (num_samples, *shape), dtype=accumulate)
    else:
        of_items = [vf.reference.standard_normal(k, (num_samples, *shape[1:]), dtype=accumulate) for k in key]
        noise = torch.stack(of_items, dim=1)
    return noise.double()


def key_for(per_item, shape, device):
    return keys_of(list(range(5, 5 + shape[0])), device) if per_item else key_of(7, 3, device)


@pytest.mark.parametrize("per_item", [False, True], ids=["one key", "key per item"])
@pytest.mark.parametrize("num_samples", SAMPLES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(device, dtype, shape, num_samples, per_item):
    mu, logvar = latents(shape, dtype, device)
    key = key_for(per_item, shape, device)
    z = vf.reparameterize(mu, logvar, num_samples=num_samples, key=key)
    noise = noise_for(key, shape, num_samples, dtype)
    assert z.dtype == dtype
    assert z.shape == noise.shape
    sigma = torch.exp(0.5 * logvar.double())
    of_normals = normal_error(accumulation_dtype(dtype), device)
    assert_rounded_once(z, mu.double() + sigma * noise, mu.double().abs() + sigma, of_normals)

    leaves, true_leaves = eager.leaves(mu, logvar), eager.leaves(mu, logvar, dtype=F64)
    weights = torch.randn(z.shape, dtype=F64).to(device, dtype)
    gradients = torch.autograd.grad(vf.reparameterize(*leaves, num_samples=num_samples, key=key), leaves, weights)
    true_z = eager.reparameterize(*true_leaves, noise)
    true_gradients = torch.autograd.grad(true_z, true_leaves, weights.double())
    total = weights.double().abs() if num_samples is None else weights.double().abs().sum(0)
    for mine, true, scale in zip(gradients, true_gradients, (total, total * sigma), strict=True):
        assert mine.dtype == dtype
        assert_rounded_once(mine, true, scale, of_normals)


@pytest.mark.parametrize("per_item", [False, True], ids=["one key", "key per item"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_with_kl_is_both_in_one(device, dtype, shape, per_item):
    mu, logvar = latents(shape, dtype, device)
    key = key_for(per_item, shape, device)
    z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
    assert torch.equal(z, vf.reparameterize(mu, logvar, key=key))
    assert kl.dtype == accumulation_dtype(dtype)
    assert kl.shape == shape[:1]
    truth = eager.kl_divergence(mu.double(), logvar.double(), reduction="sample")
    torch.testing.assert_close(
        kl.double(), truth, rtol=loss_error(kl.dtype, kl.device), atol=4 * loss_error(kl.dtype, kl.device)
    )

    leaves, true_leaves = eager.leaves(mu, logvar), eager.leaves(mu, logvar, dtype=F64)
    weights = torch.randn(shape, dtype=F64).to(device, dtype)
    weights_kl = torch.linspace(-1, 1, shape[0], device=device, dtype=kl.dtype)
    z, kl = vf.reparameterize_with_kl(*leaves, key=key)
    gradients = torch.autograd.grad((z, kl), leaves, (weights, weights_kl))
    noise = noise_for(key, shape, None, dtype)
    true_outputs = eager.reparameterize(*true_leaves, noise), eager.kl_divergence(*true_leaves, reduction="sample")
    true_gradients = torch.autograd.grad(true_outputs, true_leaves, (weights.double(), weights_kl.double()))
    sigma = torch.exp(0.5 * logvar.double())
    scales = weights.double().abs() + mu.double().abs(), (weights.double().abs() + sigma + 1) * (sigma + 1)
    for mine, true, scale in zip(gradients, true_gradients, scales, strict=True):
        assert mine.dtype == dtype
        assert_rounded_once(mine, true, scale, normal_error(accumulation_dtype(dtype), device))


@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=str)
@pytest.mark.parametrize("sigma", [1.0, 1e-2, 1e-3])
def test_no_further_from_float64_than_eager(device, dtype, sigma):
    mu, _ = latents((16, 3, 17), dtype, device)
    logvar = torch.full_like(mu, 2.0).mul_(torch.tensor(sigma).log().item())
    key = key_of(11, 0, device)
    # The same normals for all: how far they are from the exact ones is bounded in test_noise.py.
    noise = vf.standard_normal(key, mu.shape, dtype=accumulation_dtype(dtype)).double()
    weights = torch.randn(mu.shape).to(device, dtype)

    def outputs(function, cast):
        leaves = eager.leaves(mu, logvar, dtype=cast)
        z = function(*leaves)
        return z.detach(), *torch.autograd.grad(z, leaves, weights.to(cast))

    ours = outputs(lambda m, v: vf.reparameterize(m, v, key=key), dtype)
    theirs = outputs(lambda m, v: eager.reparameterize(m, v, noise.to(dtype)), dtype)
    truth = outputs(lambda m, v: eager.reparameterize(m, v, noise), F64)
    for mine, their, true in zip(ours, theirs, truth, strict=True):
        assert_as_good_as_eager(mine, their, true)


def test_one_of_two_outputs_has_a_gradient(device):
    mu, logvar = latents((4, 6), F64, device)
    key = key_of(1, 2, device)
    weights = torch.randn(4, 6, dtype=F64).to(device)
    by_z = torch.autograd.grad(vf.reparameterize_with_kl(*(a := eager.leaves(mu, logvar)), key=key)[0], a, weights)
    alone = torch.autograd.grad(vf.reparameterize(*(a := eager.leaves(mu, logvar)), key=key), a, weights)
    assert all(torch.equal(x, y) for x, y in zip(by_z, alone, strict=True))
    by_kl = torch.autograd.grad(vf.reparameterize_with_kl(*(a := eager.leaves(mu, logvar)), key=key)[1].sum(), a)
    torch.testing.assert_close(by_kl[0], mu)
    torch.testing.assert_close(by_kl[1], 0.5 * torch.expm1(logvar))
