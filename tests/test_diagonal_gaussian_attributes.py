"""DiagonalGaussian beside its kernels: likelihood, attributes, the point mass, empty moments."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import eager
from helpers.gaussian import CLAMP, Plain, moments_of, on_shapes
from helpers.tolerances import DTYPES, accumulation_dtype, assert_rounded_once
from torch.distributions import Normal

import vae_fused as vf

on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
F64 = torch.float64


def leaf_of(moments):
    return moments.detach().requires_grad_()


@on_shapes
@on_dtypes
def test_nll(device, shape, dim, dtype):
    moments = leaf_of(moments_of(shape, dtype, device))
    posterior = vf.DiagonalGaussian(moments, dim, CLAMP)
    x = leaf_of(torch.randn(posterior.mean.shape).to(device, dtype))
    wide, wide_x = eager.leaves(moments, x, dtype=F64)
    plain = Plain.of(wide, dim)
    expected = -Normal(plain.mean, torch.exp(0.5 * plain.logvar)).log_prob(wide_x)
    nll = posterior.nll(x)
    assert (nll.dtype, nll.shape) == (accumulation_dtype(dtype), shape[:1])
    torch.testing.assert_close(nll.double(), expected.flatten(1).sum(1), rtol=2e-6, atol=1e-4)
    for dims in (1, (0, 1), [-1]):
        torch.testing.assert_close(posterior.nll(x, dims).double(), expected.sum(dims), rtol=2e-6, atol=1e-4)
    truth = torch.autograd.grad(expected.sum(), (wide, wide_x))
    for ours, theirs in zip(torch.autograd.grad(nll.sum(), (moments, x)), truth, strict=True):
        assert_rounded_once(ours, theirs, 100.0)


def test_nll_of_several_samples_and_of_no_dimension(device):
    posterior = vf.DiagonalGaussian(moments_of((2, 8, 3), torch.float32, device))
    samples = torch.randn(5, 2, 4, 3, device=device)
    assert torch.equal(posterior.nll(samples), torch.stack([posterior.nll(sample) for sample in samples]))
    elements = posterior.nll(samples, dims=())
    assert elements.shape == samples.shape
    torch.testing.assert_close(elements.sum((2, 3)), posterior.nll(samples))


@on_dtypes
def test_attributes(device, dtype):
    moments = leaf_of(moments_of((2, 6, 4), dtype, device))
    posterior = vf.DiagonalGaussian(moments, -2, CLAMP)
    mean, logvar = moments.chunk(2, dim=1)
    assert posterior.parameters is moments
    assert (posterior.dim, posterior.deterministic) == (1, False)
    for ours, expected in [
        (posterior.mean, mean),
        (posterior.mode(), mean),
        (posterior.logvar, logvar.clamp(*CLAMP)),
        (posterior.std, torch.exp(0.5 * logvar.clamp(*CLAMP))),
        (posterior.var, torch.exp(logvar.clamp(*CLAMP))),
    ]:
        assert ours.dtype == dtype
        assert torch.equal(ours, expected)
        weight = torch.randn(ours.shape).to(device, dtype)
        assert torch.equal(
            torch.autograd.grad(ours, moments, weight)[0], torch.autograd.grad(expected, moments, weight)[0]
        )
    assert (
        repr(posterior) == "DiagonalGaussian(moments=[2, 6, 4], dim=1, logvar_clamp=(-1.5, 1.0), deterministic=False)"
    )


def test_default_clamp_is_that_of_diffusers(device):
    moments = torch.tensor([[0.0, 0.0, -50.0, 50.0]], device=device)
    assert vf.DiagonalGaussian(moments).logvar.tolist() == [[-30.0, 20.0]]
    expected = 0.5 * (math.exp(-30) - 1 + 30 + math.exp(20) - 1 - 20)
    torch.testing.assert_close(vf.DiagonalGaussian(moments).kl().item(), expected, rtol=1e-6, atol=0)


@on_dtypes
def test_deterministic(device, dtype):
    moments = leaf_of(moments_of((2, 6, 4), dtype, device))
    point, spread = vf.DiagonalGaussian(moments, deterministic=True), vf.DiagonalGaussian(moments)
    generator = torch.Generator(device).manual_seed(1)
    state = generator.get_state()
    z = point.sample(generator)
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(z, spread.mean)
    assert z.data_ptr() != moments.data_ptr()  # a sample that is changed in place leaves the moments alone
    assert torch.equal(
        torch.autograd.grad(z.sum(), moments)[0],
        torch.cat([torch.ones_like(z), torch.zeros_like(z)], dim=1),
    )
    assert torch.equal(point.logvar, spread.logvar)
    assert torch.equal(point.mode(), spread.mean)
    for zero in (point.std, point.var):
        assert (zero.dtype, zero.shape) == (dtype, z.shape)
        assert not zero.any()
    kl = accumulation_dtype(dtype)
    assert torch.equal(point.kl(), torch.zeros(2, dtype=kl, device=device))
    assert torch.equal(point.kl(spread), torch.zeros(2, dtype=kl, device=device))
    assert torch.equal(spread.kl(point), torch.full((2,), math.inf, dtype=kl, device=device))
    assert torch.equal(point.nll(z), torch.zeros(2, dtype=kl, device=device))
    assert torch.equal(point.nll(z, dims=(1,)), torch.zeros(2, 4, dtype=kl, device=device))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 4, 5), (3, 4, 0)], ids=str)
def test_empty(device, shape):
    moments = torch.zeros(shape, device=device, requires_grad=True)
    posterior = vf.DiagonalGaussian(moments)
    z, kl = posterior.sample(), posterior.kl()
    assert z.shape == (shape[0], shape[1] // 2, *shape[2:])
    for value in (kl, vf.DiagonalGaussian(moments).kl(), posterior.kl(vf.DiagonalGaussian(moments))):
        assert torch.equal(value, torch.zeros(shape[0], device=device))
        assert torch.autograd.grad(value.sum() + z.sum(), moments, retain_graph=True)[0].shape == shape
    assert posterior.nll(z).shape == shape[:1]
