"""The KL divergence from the standard normal: values, sign, and the neighbourhood of zero and of the extremes."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import eager
from helpers.inputs import SHAPES, latents
from helpers.tolerances import (
    DTYPES,
    accumulation_dtype,
    approximates,
    arithmetic_error,
    assert_as_good_as_eager,
    assert_rounded_once,
    loss_error,
)

import vae_fused as vf

F16, BF16, F32, F64 = DTYPES
REDUCTIONS = (*eager.REDUCTIONS, "none")
BOTH = pytest.mark.parametrize("api", [vf, vf.reference], ids=["kernel", "reference"])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(device, dtype, shape, reduction):
    mu, logvar = latents(shape, dtype, device)
    ours = vf.kl_divergence(mu, logvar, reduction=reduction)
    truth = eager.kl_divergence(mu.double(), logvar.double(), reduction=reduction)
    assert ours.dtype == accumulation_dtype(dtype)
    assert ours.shape == truth.shape
    # Elements near the minimum of the truth's own formula cancel, so the elementwise comparison has a scale.
    if reduction == "none":
        assert_rounded_once(ours, truth, 0.5 * (mu.double() ** 2 + logvar.double().exp() + 2))
    else:
        rtol = loss_error(ours.dtype, ours.device)
        torch.testing.assert_close(ours.double(), truth, rtol=rtol, atol=4 * rtol if reduction == "sample" else 0)

    leaves, true_leaves = eager.leaves(mu, logvar), eager.leaves(mu, logvar, dtype=F64)
    weights = torch.linspace(0.5, 1.5, truth.numel(), device=device, dtype=F64).view(truth.shape)
    gradients = torch.autograd.grad((vf.kl_divergence(*leaves, reduction=reduction) * weights).sum(), leaves)
    true_loss = eager.kl_divergence(*true_leaves, reduction=reduction)
    true_gradients = torch.autograd.grad((true_loss * weights).sum(), true_leaves)
    weight = 1.5 / {"batchmean": shape[0], "mean": mu.numel()}.get(reduction, 1)
    for mine, true, scale in zip(
        gradients, true_gradients, (mu.double().abs(), logvar.double().exp() + 1), strict=True
    ):
        assert mine.dtype == dtype
        assert_rounded_once(mine, true, weight * scale)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=str)
def test_no_further_from_float64_than_eager(device, dtype, reduction):
    mu, logvar = latents((6, 3, 17), dtype, device)
    truth = eager.kl_divergence(mu.double(), logvar.double(), reduction=reduction)
    ours = vf.kl_divergence(mu, logvar, reduction=reduction)
    assert_as_good_as_eager(ours, eager.kl_divergence(mu, logvar, reduction=reduction), truth)


@BOTH
def test_half_precision_latents_do_not_overflow(device, api):
    mu = torch.full((16, 64, 64), 2.0, dtype=F16, device=device)
    logvar = torch.full_like(mu, -6.0)
    expected = mu.numel() * 0.5 * (4.0 + math.exp(-6.0) - 1.0 + 6.0)
    assert round(expected) == 294993
    assert api.kl_divergence(mu, logvar, reduction="sum").item() == pytest.approx(expected, rel=1e-6)
    _, kl = api.reparameterize_with_kl(mu, logvar, generator=torch.Generator(device))
    assert kl.double().sum().item() == pytest.approx(expected, rel=1e-6)
    data = torch.zeros(16, 1, device=device)
    terms = api.elbo_loss(data, data, mu, logvar, reduction="sum", return_terms=True)
    assert terms.kl.item() == pytest.approx(expected, rel=1e-6)


def divergence_by_series(logvar):
    """(e^x - 1 - x) / 2 by its series in float64, for |x| < 0.1."""
    x, term, total = logvar.double(), logvar.double() ** 2 / 2, torch.zeros_like(logvar, dtype=F64)
    for n in range(3, 16):
        total, term = total + term, term * x / n
    return total / 2


SMALL = torch.cat([sign * torch.logspace(-8, -2, 601, dtype=F64) for sign in (1, -1)])


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("op", ["none", "sample", "with_kl", "elbo_loss"])
def test_tiny_logvar_is_relatively_exact(device, dtype, op):
    logvar = SMALL.to(device, dtype).unsqueeze(1)
    mu = torch.zeros_like(logvar)
    if op == "with_kl":
        ours = vf.reparameterize_with_kl(mu, logvar)[1].unsqueeze(1)
    elif op == "elbo_loss":
        ours = vf.elbo_loss(mu, mu, mu, logvar, reduction="sample").unsqueeze(1)
    else:
        ours = vf.kl_divergence(mu, logvar, reduction=op).view_as(mu)
    error = (ours.double() / divergence_by_series(logvar) - 1).abs().max().item()
    assert error <= arithmetic_error(dtype, device)


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_is_never_negative(device, api, dtype):
    logvar = torch.cat([SMALL, torch.linspace(-3, 3, 4001, dtype=F64), torch.randn(4000, dtype=F64) * 1e-3])
    logvar = logvar.to(device, dtype)
    for mu in (torch.zeros_like(logvar), torch.full_like(logvar, 1e-4)):
        assert (api.kl_divergence(mu, logvar, reduction="none") >= 0).all()
        assert (api.reparameterize_with_kl(mu, logvar)[1] >= 0).all()


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_logvar_over_its_whole_range(device, dtype):
    logvar = torch.linspace(
        -86 if dtype == F32 else -700, 88 if dtype == F32 else 700, 5001, device=device, dtype=dtype
    )
    ours = vf.kl_divergence(torch.zeros_like(logvar), logvar, reduction="none")
    x = logvar.double()
    truth = torch.where(x.abs() < 0.1, divergence_by_series(logvar), 0.5 * (torch.expm1(x) - x))
    # An approximate power of two is wrong by its argument's rounding too, and e^x is its square.
    of_range = x.abs().max().item() * 2.0**-25 if approximates(device) and dtype == F32 else 0.0
    torch.testing.assert_close(ours.double(), truth, rtol=loss_error(dtype, device) + 2 * of_range, atol=1e-30)
    sigma = vf.reparameterize(torch.zeros_like(logvar), logvar, key=torch.tensor([1, 1], dtype=torch.uint64).to(device))
    noise = vf.standard_normal(torch.tensor([1, 1], dtype=torch.uint64).to(device), (5001,), dtype=dtype)
    ratio = sigma.double() / noise.double() / torch.exp(0.5 * x) - 1
    assert ratio.abs().max().item() <= arithmetic_error(dtype, device) + of_range


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("logvar", [-1e4, -200.0, 200.0, 1e4])
def test_extreme_logvar(device, dtype, logvar):
    mu, extreme = torch.zeros(2, 3, dtype=dtype, device=device), torch.full((2, 3), logvar, dtype=dtype, device=device)
    kl = vf.kl_divergence(mu, extreme, reduction="sample")
    narrow = accumulation_dtype(dtype) == F32
    if logvar < 0:
        torch.testing.assert_close(kl.double(), -1.5 * (extreme[:, 0].double() + 1), rtol=1e-6, atol=0)
    elif narrow or logvar > 709:
        assert torch.isposinf(kl).all()
    else:
        assert kl.isfinite().all()
    z = vf.reparameterize(mu + 1, extreme)
    if logvar == -1e4:
        assert (z == 1).all()
    assert not z.isnan().any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_the_reference(device, dtype, reduction):
    mu, logvar = latents((5, 3, 4), dtype, device)
    ours, reference = (api.kl_divergence(mu, logvar, reduction=reduction) for api in (vf, vf.reference))
    assert ours.dtype == reference.dtype
    torch.testing.assert_close(
        ours, reference, rtol=2 * loss_error(ours.dtype, ours.device), atol=loss_error(ours.dtype, ours.device)
    )
