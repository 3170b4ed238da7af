"""Scales of zero, below zero, near that of the prior and far from it; the temperature; many samples."""

from __future__ import annotations

import pytest
import torch
from helpers.inputs import key_of
from helpers.posteriors import Form, on_some_forms

import vae_fused as vf

F32, F64 = torch.float32, torch.float64
SHAPE = (3, 2, 19)
BOTH = pytest.mark.parametrize("api", [vf, vf.reference], ids=["kernel", "reference"])


@pytest.mark.parametrize("num_samples", [1, 3])
@on_some_forms
def test_many_samples(device, form, num_samples):
    mu, raw = torch.randn(SHAPE, dtype=F64).to(device), form.raw(SHAPE, F64, device)
    key = key_of(3, 1, device)
    z = vf.reparameterize(mu, raw, num_samples=num_samples, key=key, temperature=0.5, **form.arguments)
    noise = vf.standard_normal(key, (num_samples, *SHAPE), dtype=F64)
    torch.testing.assert_close(z, form.sample(mu, raw, noise, 0.5), rtol=1e-12, atol=1e-12)


@BOTH
@pytest.mark.parametrize("parameterization", ["std", "var"])
def test_a_scale_of_zero_is_the_mean(api, device, parameterization):
    mu = torch.randn(4, 5, device=device)
    zero = torch.zeros(4, 5, device=device, requires_grad=True)
    key = key_of(3, 1, device)
    z = api.reparameterize(mu, zero, key=key, parameterization=parameterization)
    assert torch.equal(z, mu)
    assert api.kl_divergence(mu, zero, parameterization=parameterization) == float("inf")
    if parameterization == "std":  # the derivative is the noise; that of a root is infinite at zero
        (gradient,) = torch.autograd.grad(z.sum(), zero)
        torch.testing.assert_close(gradient, vf.standard_normal(key, (4, 5)).to(device), rtol=0, atol=4e-6)


@BOTH
@pytest.mark.parametrize("parameterization", ["std", "var"])
def test_a_negative_scale_has_no_divergence(api, device, parameterization):
    mu, raw = torch.zeros(2, 3, device=device), torch.ones(2, 3, device=device)
    raw[1, 1] = -1.0
    kl = api.kl_divergence(mu, raw, reduction="none", parameterization=parameterization)
    assert torch.equal(kl.isnan(), raw < 0)
    assert (kl[0] == 0).all()


@BOTH
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("parameterization", ["softplus_std", "softplus_var"])
def test_softplus_far_from_zero(api, device, dtype, parameterization):
    raw = torch.tensor([[-80.0, -40.0, -20.0, 0.0, 20.0, 40.0, 1e4]], dtype=dtype, device=device)
    mu = torch.zeros_like(raw)
    form = Form(parameterization)
    truth = form.kl(mu.double(), raw.double())
    ours = api.kl_divergence(mu, raw, reduction="none", parameterization=parameterization)
    torch.testing.assert_close(ours.double(), truth, rtol=4e-7 if dtype == F32 else 1e-9, atol=0)


@pytest.mark.parametrize("parameterization", ["std", "var", "softplus_std"])
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_near_the_prior_nothing_cancels(device, dtype, parameterization):
    distance = torch.linspace(-1e-3, 1e-3, 401, dtype=F64).unsqueeze(0)
    raw = torch.log(torch.expm1(1 + distance)) if parameterization == "softplus_std" else 1 + distance
    raw = raw.to(device, dtype)
    ours = vf.kl_divergence(torch.zeros_like(raw), raw, reduction="none", parameterization=parameterization)
    assert (ours >= 0).all()
    if parameterization == "softplus_std":
        return
    h = raw.double() - 1
    difference = sum((-1) ** n * h**n / n for n in range(2, 9))  # h - log(1 + h)
    truth = h * h / 2 + difference if parameterization == "std" else 0.5 * difference
    torch.testing.assert_close(ours.double(), truth, rtol=1e-6 if dtype == F32 else 1e-13, atol=0)


def test_temperature_zero_is_the_mean_and_one_is_the_default(device):
    mu, logvar = torch.randn(4, 5, device=device), torch.randn(4, 5, device=device)
    key = key_of(3, 1, device)
    assert torch.equal(vf.reparameterize(mu, logvar, key=key, temperature=0), mu)
    assert torch.equal(vf.reparameterize(mu, logvar, key=key, temperature=1), vf.reparameterize(mu, logvar, key=key))
