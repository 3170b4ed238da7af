"""DiagonalGaussian against the plain formulas in float64: values and gradients, every rank, layout and dtype."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import eager
from helpers.gaussian import CLAMP, Plain, moments_of, noise_of, on_shapes
from helpers.inputs import key_of, keys_of
from helpers.layouts import LAYOUTS
from helpers.tolerances import (
    DTYPES,
    accumulation_dtype,
    assert_loss_close,
    assert_rounded_once,
    between_kernels,
    loss_error,
)

import vae_fused as vf

on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
F64 = torch.float64


def leaf_of(moments):
    return moments.detach().requires_grad_()


@on_shapes
@on_dtypes
@pytest.mark.parametrize("clamp", [CLAMP, None], ids=["clamped", "unclamped"])
@pytest.mark.parametrize("per_item", [False, True], ids=["one key", "key per item"])
def test_sample_and_kl_with_their_gradients(device, shape, dim, dtype, clamp, per_item):
    moments = leaf_of(moments_of(shape, dtype, device))
    posterior = vf.DiagonalGaussian(moments, dim, clamp)
    key = keys_of(list(range(shape[0])), device) if per_item else key_of(7, 3, device)
    z, kl = posterior.sample(key=key), posterior.kl()
    assert (z.dtype, kl.dtype, kl.shape) == (dtype, accumulation_dtype(dtype), shape[:1])

    (wide,) = eager.leaves(moments, dtype=F64)
    plain, noise = Plain.of(wide, dim, clamp), noise_of(key, z)
    expected_z, expected_kl = plain.sample(noise), plain.kl()
    size = plain.mean.detach().abs() + plain.logvar.detach().div(2).exp() * noise.abs()
    assert_rounded_once(z, expected_z.detach(), size)
    assert_loss_close(kl, expected_kl)

    grad_z = torch.randn(z.shape).to(device, dtype)
    grad_kl = torch.randn(kl.shape).to(device, kl.dtype)
    (expected,) = torch.autograd.grad((expected_z, expected_kl), wide, (grad_z.double(), grad_kl.double()))
    (gradient,) = torch.autograd.grad((z, kl), moments, (grad_z, grad_kl))
    by_item = grad_kl.abs().view(-1, *[1] * (z.dim() - 1))
    sigma, mean = plain.logvar.detach().div(2).exp(), plain.mean.detach().abs()
    to_mean = grad_z.abs() + by_item * mean
    to_logvar = (grad_z * noise).abs() * sigma + by_item * (sigma.square() + 1)
    assert_rounded_once(gradient, expected, torch.cat([to_mean, to_logvar], dim))


@on_shapes
@on_dtypes
def test_kl_from_another(device, shape, dim, dtype):
    moments, prior = (leaf_of(moments_of(shape, dtype, device)) for _ in range(2))
    kl = vf.DiagonalGaussian(moments, dim, CLAMP).kl(vf.DiagonalGaussian(prior, dim, (-1.0, 0.5)))
    wide = eager.leaves(moments, prior, dtype=F64)
    own, other = Plain.of(wide[0], dim, CLAMP), Plain.of(wide[1], dim, (-1.0, 0.5))
    expected = own.kl(other)
    assert_loss_close(kl, expected)
    weight = torch.randn(kl.shape).to(device, kl.dtype)
    truth = torch.autograd.grad(expected, wide, weight.double())
    with torch.no_grad():
        by_item = weight.double().abs().view(-1, *[1] * (own.mean.dim() - 1))
        precision, ratio = torch.exp(-other.logvar), torch.exp(own.logvar - other.logvar)
        to_mean = by_item * (own.mean.abs() + other.mean.abs()) * precision
        to_logvar = by_item * (ratio + 1)
        to_prior = by_item * (ratio + 1 + (own.mean.abs() + other.mean.abs()).square() * precision)
    scales = torch.cat([to_mean, to_logvar], dim), torch.cat([to_mean, to_prior], dim)
    for ours, theirs, scale in zip(torch.autograd.grad(kl, (moments, prior), weight), truth, scales, strict=True):
        assert_rounded_once(ours, theirs, scale)


@on_shapes
def test_kl_from_itself_under_other_bounds(device, shape, dim):
    (wide,) = eager.leaves(moments_of(shape, F64, device))
    expected = Plain.of(wide, dim, CLAMP).kl(Plain.of(wide, dim, (-1.0, 0.5)))
    moments = leaf_of(wide)
    kl = vf.DiagonalGaussian(moments, dim, CLAMP).kl(vf.DiagonalGaussian(moments, dim, (-1.0, 0.5)))
    torch.testing.assert_close(kl, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn(kl.shape).to(device, F64)
    gradient, truth = (torch.autograd.grad(v, x, weight)[0] for v, x in ((kl, moments), (expected, wide)))
    torch.testing.assert_close(gradient, truth, rtol=1e-12, atol=1e-12)


def test_kl_from_a_prior_that_holds_its_halves_elsewhere(device):
    moments, prior = leaf_of(moments_of((3, 8, 5), device=device)), leaf_of(moments_of((3, 4, 10), device=device))
    own, other = vf.DiagonalGaussian(moments, 1, CLAMP), vf.DiagonalGaussian(prior, -1, None)
    kl = own.kl(other)
    expected = vf.kl_divergence(own.mean, own.logvar, other.mean, other.logvar, reduction="sample")
    torch.testing.assert_close(kl, expected)
    for ours, theirs in zip(
        torch.autograd.grad(kl.sum(), (moments, prior)),
        torch.autograd.grad(expected.sum(), (moments, prior)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_kl_from_a_prior_that_broadcasts(device):
    moments, prior = leaf_of(moments_of((3, 8, 5), device=device)), leaf_of(moments_of((1, 2, 5), device=device))
    kl = vf.DiagonalGaussian(moments, 1, CLAMP).kl(vf.DiagonalGaussian(prior, 1, CLAMP))
    (a, b) = eager.leaves(moments, prior, dtype=F64)
    other = Plain(*(t.expand(3, 4, 5) for t in Plain.of(b, 1)))
    expected = Plain.of(a, 1).kl(other)
    assert_loss_close(kl, expected)
    ours = torch.autograd.grad(kl.sum(), (moments, prior))
    for gradient, truth in zip(ours, torch.autograd.grad(expected.sum(), (a, b)), strict=True):
        torch.testing.assert_close(gradient.double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, F64], ids=str)
@pytest.mark.parametrize(
    ("shape", "dim"), [((4, 6), 1), ((3, 4, 6), -1), ((2, 4, 8, 6), 1), ((2, 4, 3, 4, 3), 1)], ids=str
)
def test_any_strides(device, layout, dtype, shape, dim):
    strided = leaf_of(layout(moments_of(shape, dtype, device)))
    copy = leaf_of(strided.detach().clone(memory_format=torch.contiguous_format))
    key, results = key_of(1, 5, device), []
    for moments in (strided, copy):
        posterior = vf.DiagonalGaussian(moments, dim, CLAMP)
        z, kl, again = posterior.sample(key=key), posterior.kl(), vf.DiagonalGaussian(moments, dim, CLAMP).kl()
        results.append(
            (z, kl, again, *torch.autograd.grad((z, kl), moments, (torch.ones_like(z), torch.ones_like(kl))))
        )
        results[-1] += torch.autograd.grad(again.sum(), moments)
    for index, (ours, expected) in enumerate(zip(*results, strict=True)):
        # Sums may add in another order: the fixed one of this layout.
        tolerance = between_kernels(ours.dtype, ours.device)
        if index in (1, 2):
            tolerance = {"rtol": loss_error(ours.dtype, ours.device), "atol": 0.0}
        torch.testing.assert_close(ours, expected, **tolerance)
    assert results[0][0].stride() == torch.empty_like(strided.chunk(2, dim)[0]).stride()
    assert results[0][3].stride() == results[0][4].stride() == torch.empty_like(strided).stride()


@on_dtypes
@pytest.mark.parametrize("clamp", [(-1.0, 0.5), (-0.1, 0.1), (-math.inf, 0.25), (0.25, math.inf), (0.3, 0.3)], ids=str)
def test_clamp_is_that_of_torch(device, dtype, clamp):
    """At the bounds, one number beside them, beyond them, infinite, and NaN; bounds that the dtype rounds too."""
    bounds = torch.tensor([b for b in clamp if math.isfinite(b)], dtype=dtype)
    up, down = torch.tensor(math.inf, dtype=dtype), torch.tensor(-math.inf, dtype=dtype)
    values = torch.cat(
        [bounds, bounds.nextafter(up), bounds.nextafter(down), torch.tensor([-9.0, 0.0, 9.0], dtype=dtype)]
    )
    values = torch.cat([values, torch.tensor([math.nan], dtype=dtype)])
    if math.isfinite(clamp[0]) and math.isfinite(clamp[1]):
        values = torch.cat([values, torch.tensor([math.inf, -math.inf], dtype=dtype)])
    moments = leaf_of(torch.stack([torch.ones_like(values), values], dim=1).to(device))  # one item for each value
    posterior = vf.DiagonalGaussian(moments, 1, clamp)
    key = key_of(3, 0, device)
    (copy,) = eager.leaves(moments)
    mean, logvar = copy.chunk(2, dim=1)
    clamped = logvar.clamp(*clamp)
    assert torch.equal(posterior.logvar.nan_to_num(77.0), clamped.nan_to_num(77.0))
    for ours, theirs in [
        (posterior.sample(key=key), vf.reparameterize(mean, clamped, key=key)),
        (posterior.kl(), vf.kl_divergence(mean, clamped, reduction="sample")),
        (vf.DiagonalGaussian(moments, 1, clamp).kl(), vf.kl_divergence(mean, clamped, reduction="sample")),
    ]:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        gradient = torch.autograd.grad(ours, moments, torch.ones_like(ours), retain_graph=True)[0]
        expected = torch.autograd.grad(theirs, copy, torch.ones_like(theirs), retain_graph=True)[0]
        torch.testing.assert_close(gradient, expected, rtol=0, atol=0, equal_nan=True)
    standard = vf.DiagonalGaussian(torch.zeros_like(moments.detach()), 1, None)
    ours = standard.kl(vf.DiagonalGaussian(moments, 1, clamp))
    theirs = vf.kl_divergence(standard.mean, standard.logvar, mean, clamped, reduction="sample")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    gradient, expected = torch.autograd.grad(ours.sum(), moments)[0], torch.autograd.grad(theirs.sum(), copy)[0]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0, equal_nan=True)


def test_nan_without_a_clamp_stays_in_its_item(device):
    moments = moments_of((3, 4, 2), device=device)
    moments[1, 3, 0] = math.nan
    leaf = leaf_of(moments)
    posterior = vf.DiagonalGaussian(leaf, 1, None)
    z, kl = posterior.sample(key=key_of(1, 0, device)), posterior.kl()
    assert kl.isnan().tolist() == [False, True, False]
    (gradient,) = torch.autograd.grad(z.sum() + kl.sum(), leaf)
    assert z.isnan().nonzero().tolist() == [[1, 1, 0]]
    assert gradient.isnan().nonzero().tolist() == [[1, 3, 0]]


def test_bounds_beyond_the_range_of_half_precision(device):
    moments = moments_of((3, 4), torch.float16, device)
    bounded, free = vf.DiagonalGaussian(moments, 1, (-1e6, 1e6)), vf.DiagonalGaussian(moments, 1, None)
    assert torch.equal(bounded.logvar, free.logvar)
    assert torch.equal(bounded.kl(), free.kl())
