"""Every form of a posterior's scale against float64: samples, divergences and their gradients, in every dtype."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import key_of, keys_of
from helpers.layouts import LAYOUTS
from helpers.posteriors import SOME_FORMS, mask_of, on_forms, on_masks, on_some_forms
from helpers.tolerances import (
    DTYPES,
    accumulation_dtype,
    assert_as_good_as_eager,
    assert_rounded_once,
    between_kernels,
    normal_error,
)

import vae_fused as vf

F16, BF16, F32, F64 = DTYPES
SHAPE = (3, 2, 19)
# Of a few elementary functions one after the other, in each of which the last digits of the logarithm are lost.
SCALE_ERROR = {F32: 4e-6, F64: 2e-14}
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
BOTH = pytest.mark.parametrize("api", [vf, vf.reference], ids=["kernel", "reference"])


def operands(form, dtype, device, shape=SHAPE):
    return torch.randn(shape, dtype=F64).to(device, dtype), form.raw(shape, dtype, device)


def noise_of(key, shape, dtype, device):
    return vf.standard_normal(key, shape, dtype=accumulation_dtype(dtype)).double().to(device)


def derivatives(function, tensors, weights):
    leaves = eager.leaves(*tensors)
    return torch.autograd.grad(function(*leaves), leaves, weights)


def slopes(form, raw):
    """How fast the standard deviation and the divergence change, for the scale of an error."""
    leaf = raw.double().detach().requires_grad_()
    std = form.std(leaf)
    (slope,) = torch.autograd.grad(std.sum(), leaf)
    return std.detach(), slope.abs()


@BOTH
@on_dtypes
@on_forms
def test_sample(api, device, dtype, form):
    mu, raw = operands(form, dtype, device)
    key = key_of(7, 3, device)
    z = api.reparameterize(mu, raw, key=key, temperature=0.75, **form.arguments)
    noise = noise_of(key, SHAPE, dtype, device)
    std, slope = slopes(form, raw)
    assert z.dtype == dtype
    error = normal_error(accumulation_dtype(dtype), device) + SCALE_ERROR[accumulation_dtype(dtype)]
    assert_rounded_once(z, form.sample(mu.double(), raw.double(), noise, 0.75), mu.double().abs() + std, error)

    weights = torch.randn(SHAPE, dtype=F64).to(device, dtype)
    ours = derivatives(
        lambda m, v: api.reparameterize(m, v, key=key, temperature=0.75, **form.arguments), (mu, raw), weights
    )
    truth = derivatives(lambda m, v: form.sample(m, v, noise, 0.75), (mu.double(), raw.double()), weights.double())
    size = weights.double().abs()
    for mine, true, scale in zip(ours, truth, (size, size * (slope + std)), strict=True):
        assert mine.dtype == dtype
        assert_rounded_once(mine, true, scale, error)


@BOTH
@pytest.mark.parametrize(
    ("reduction", "masked"),
    [
        ("batchmean", "none"),
        ("batchmean", "bool"),
        ("sum", "weights"),
        ("sample", "weights"),
        ("mean", "bool"),
        ("none", "weights"),
        ("none", "none"),
    ],
)
@pytest.mark.parametrize("prior", [False, True], ids=["unit prior", "given prior"])
@pytest.mark.parametrize("dtype", [BF16, F32, F64], ids=str)
@on_some_forms
def test_divergence(api, device, dtype, form, prior, reduction, masked):
    mu, raw = operands(form, dtype, device)
    mask = mask_of(SHAPE, masked, device)
    priors = [torch.randn(s, dtype=F64).to(device, dtype) for s in ((19,), SHAPE)] if prior else []
    none = [None] * (2 - len(priors))

    def ours_of(*t):
        return api.kl_divergence(*t, *none, reduction=reduction, mask=mask, **form.arguments)

    def truth_of(*t):
        weights = None if mask is None else mask.double()
        return form.kl(*t, *none, mask=weights, reduction=reduction)

    tensors = (mu, raw, *priors)
    ours, truth = ours_of(*tensors), truth_of(*(t.double() for t in tensors))
    wide = accumulation_dtype(dtype)
    assert ours.dtype == wide
    torch.testing.assert_close(ours.double(), truth, rtol=2 * SCALE_ERROR[wide], atol=10 * SCALE_ERROR[wide])

    weights = torch.linspace(0.5, 1.5, truth.numel(), device=device, dtype=F64).view(truth.shape)
    gradients = derivatives(ours_of, tensors, weights.to(wide))
    true_gradients = derivatives(truth_of, [t.double() for t in tensors], weights)
    half = {F16: 2.0**-10, BF16: 2.0**-7}.get(dtype, 0.0)
    for mine, true in zip(gradients, true_gradients, strict=True):
        assert mine.dtype == dtype
        assert_rounded_once(mine, true, true.abs().max() + 0.1, 10 * SCALE_ERROR[wide] + 4 * half)


@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=str)
@on_forms
def test_no_further_from_float64_than_eager(device, dtype, form):
    # So many that the largest errors are those of the formulas, and not of the one element that a library rounds well.
    shape = (6, 100, 117)
    mu, raw = operands(form, dtype, device, shape)
    key = key_of(7, 3, device)
    noise = noise_of(key, shape, dtype, device)
    weights = torch.randn(shape, dtype=F64).to(device, dtype)
    pairs = [
        (
            lambda m, v: vf.reparameterize(m, v, key=key, **form.arguments),
            lambda m, v: form.sample(m, v, noise.to(m.dtype)),
        ),
        (lambda m, v: vf.kl_divergence(m, v, reduction="none", **form.arguments), form.kl),
    ]
    for fused, plain in pairs:
        truth = plain(mu.double(), raw.double())
        assert_as_good_as_eager(fused(mu, raw), plain(mu, raw), truth)
        ours, eagers, truths = (
            derivatives(function, tensors, w.to(function(*tensors).dtype))
            for function, tensors, w in (
                (fused, (mu, raw), weights),
                (plain, (mu, raw), weights),
                (plain, (mu.double(), raw.double()), weights.double()),
            )
        )
        for mine, theirs, true in zip(ours, eagers, truths, strict=True):
            assert_as_good_as_eager(mine, theirs, true)


@on_masks
@on_dtypes
@on_some_forms
def test_with_kl_is_both_in_one(device, dtype, form, masked):
    mu, raw = operands(form, dtype, device)
    mask, key = mask_of(SHAPE, masked, device), keys_of([5, 6, 2**64 - 1], device)
    z, kl = vf.reparameterize_with_kl(mu, raw, key=key, mask=mask, **form.arguments)
    alone = vf.reparameterize(mu, raw, key=key, **form.arguments)
    torch.testing.assert_close(z, alone, **between_kernels(dtype, device))
    expected = vf.kl_divergence(mu, raw, reduction="sample", mask=mask, **form.arguments)
    torch.testing.assert_close(kl, expected, rtol=2e-6 if dtype != F64 else 1e-14, atol=1e-6 if dtype != F64 else 1e-14)

    weights = [torch.randn_like(z), torch.randn_like(kl)]

    def both(m, v):
        return vf.reparameterize_with_kl(m, v, key=key, mask=mask, **form.arguments)

    leaves = eager.leaves(mu, raw)
    ours = torch.autograd.grad(both(*leaves), leaves, weights)
    true_leaves = [t.double() for t in leaves]
    noise = noise_of(key, SHAPE, dtype, device)
    factor = None if mask is None else mask.double()
    outputs = (form.sample(*true_leaves, noise), form.kl(*true_leaves, mask=factor, reduction="sample"))
    truth = torch.autograd.grad(outputs, leaves, [w.double() for w in weights])
    half = {F16: 2.0**-10, BF16: 2.0**-7}.get(dtype, 0.0)
    for mine, true in zip(ours, truth, strict=True):
        error = 1e-13 if dtype == F64 else 2e-5
        assert_rounded_once(mine, true, true.double().abs().max() + 0.1, error + half)


@pytest.mark.parametrize("masked", ["weights", "bool"])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 5), (3, 1501)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("form", SOME_FORMS[1:5:2], ids=str)
def test_layouts(device, form, layout, shape, masked):
    mu, raw = (layout(t) for t in operands(form, F32, device, shape))
    mask = mask_of(shape, masked, device)
    key = key_of(1, 2, device)
    arguments = {**form.arguments, "mask": mask}
    results = []
    for m, v in ((mu, raw), (mu.contiguous(), raw.contiguous())):
        leaves = [t.detach().requires_grad_() for t in (m, v)]
        z, kl = vf.reparameterize_with_kl(*leaves, key=key, **arguments)
        elements = vf.kl_divergence(*leaves, reduction="none", **arguments)
        gradients = torch.autograd.grad([z.sum() + kl.sum(), elements.square().sum()], leaves)
        results.append([z, kl, elements, *gradients])
    for strided, plain in zip(*results, strict=True):
        assert strided.shape == plain.shape
        torch.testing.assert_close(strided, plain, rtol=2e-6, atol=1e-6)
