"""The KL divergence from a general diagonal Gaussian, and priors that are shared between elements."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers import eager
from helpers.inputs import latents
from helpers.tolerances import DTYPES, accumulation_dtype, assert_as_good_as_eager, assert_rounded_once, loss_error

import vae_fused as vf

F16, BF16, F32, F64 = DTYPES
REDUCTIONS = (*eager.REDUCTIONS, "none")
SHAPE = (5, 3, 7)
# None: absent.
PRIORS = [SHAPE, (7,), (), (1,), (1, 1, 1), (3, 7), (5, 1, 1), (1, 3, 1), None]


def priors(shape, dtype, device):
    if shape is None:
        return None
    return (0.5 * torch.randn(shape, dtype=F64)).to(device, dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("mean_shape", "logvar_shape"), list(itertools.product(PRIORS, PRIORS))[::3], ids=str)
def test_values_and_gradients(device, dtype, mean_shape, logvar_shape, reduction):
    operands = [*latents(SHAPE, dtype, device), priors(mean_shape, dtype, device), priors(logvar_shape, dtype, device)]
    ours = vf.kl_divergence(*operands, reduction=reduction)
    truth = eager.kl_divergence(*(t if t is None else t.double() for t in operands), reduction=reduction)
    assert ours.dtype == accumulation_dtype(dtype)
    torch.testing.assert_close(
        ours.double(), truth, rtol=4 * loss_error(ours.dtype, ours.device), atol=8 * loss_error(ours.dtype, ours.device)
    )

    def gradients(function, cast):
        leaves = [t if t is None else t.detach().to(cast).requires_grad_() for t in operands]
        loss = function(*leaves, reduction=reduction)
        weights = torch.linspace(0.5, 1.5, loss.numel(), device=device, dtype=F64).view(loss.shape)
        return torch.autograd.grad((loss.double() * weights).sum(), [t for t in leaves if t is not None])

    ours_gradients = gradients(vf.kl_divergence, dtype)
    for mine, true in zip(ours_gradients, gradients(eager.kl_divergence, F64), strict=True):
        assert mine.dtype == dtype
        # A prior that is shared sums rounded gradients of as many elements as share it.
        shared = operands[0].numel() / max(true.numel(), 1)
        scale = true.abs().max() + 1.0 / {"batchmean": 5, "mean": 105}.get(reduction, 1)
        half = {F16: 2.0**-10, BF16: 2.0**-7}.get(dtype, 0.0)
        assert_rounded_once(mine, true, scale, (half + 1e-6 if dtype != F64 else 1e-14) * (1 if shared == 1 else 4))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=str)
def test_no_further_from_float64_than_eager(device, dtype, reduction):
    operands = [*latents(SHAPE, dtype, device), priors((7,), dtype, device), priors(SHAPE, dtype, device)]
    truth = eager.kl_divergence(*(t.double() for t in operands), reduction=reduction)
    assert_as_good_as_eager(
        vf.kl_divergence(*operands, reduction=reduction), eager.kl_divergence(*operands, reduction=reduction), truth
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_standard_normal_prior_is_the_default(device, dtype):
    mu, logvar = latents(SHAPE, dtype, device)
    zero = torch.zeros((), dtype=dtype, device=device)
    expected = vf.kl_divergence(mu, logvar, reduction="sample")
    tolerance = dict(
        rtol=4 * loss_error(expected.dtype, expected.device), atol=4 * loss_error(expected.dtype, expected.device)
    )
    for prior in ((zero, None), (None, zero), (zero, zero)):
        torch.testing.assert_close(vf.kl_divergence(mu, logvar, *prior, reduction="sample"), expected, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_where_posterior_and_prior_coincide(device, dtype):
    mu, logvar = latents(SHAPE, dtype, device)
    assert (vf.kl_divergence(mu, logvar, mu, logvar, reduction="none") == 0).all()
    gradients = torch.autograd.grad(vf.kl_divergence(*(leaves := eager.leaves(mu, logvar, mu, logvar))), leaves)
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_nearly_equal_posterior_and_prior_do_not_cancel(device, dtype):
    # Chosen so that the difference of the two log-variances is exact: it is all that decides the divergence.
    logvar = torch.full((400, 1), -1.0, dtype=dtype, device=device)
    step = torch.finfo(dtype).eps
    prior = logvar + torch.arange(1, 401, device=device, dtype=dtype).unsqueeze(1) * step
    delta = (logvar - prior).double()
    mu = torch.zeros_like(logvar)
    ours = vf.kl_divergence(mu, logvar, None, prior, reduction="none")
    truth = 0.5 * (delta**2 / 2 + delta**3 / 6)
    assert (ours.double() / truth - 1).abs().max().item() <= 1e-6
    assert (ours >= 0).all()


def test_matches_torch_distributions(device):
    operands = [t.double() for t in (*latents(SHAPE, F64, device), *latents(SHAPE, F64, device))]
    mu, logvar, prior_mu, prior_logvar = operands
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mu, (0.5 * logvar).exp()), normal(prior_mu, (0.5 * prior_logvar).exp())
    )
    torch.testing.assert_close(vf.kl_divergence(*operands, reduction="none"), expected, rtol=1e-12, atol=1e-12)
