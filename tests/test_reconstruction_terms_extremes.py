"""Where naive formulas overflow: logits of ±1e4, log sigma of ±30, probabilities of 0 and 1, in every dtype."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.terms import elements
from helpers.tolerances import DTYPES, ROUNDING, UNDERFLOW, accumulation_dtype, arithmetic_error

import vae_fused as vf

APIS = pytest.mark.parametrize("api", [vf, vf.reference], ids=["kernel", "reference"])
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
F64 = torch.float64


def per_element(api, recon, target, **settings):
    """The value of each element, each an item of its own, and the gradients of recon, target and log sigma."""
    leaves = [t for t in (recon, target, settings.get("log_sigma")) if isinstance(t, torch.Tensor) and t.requires_grad]
    kl = torch.zeros(recon.shape[0], device=recon.device)
    values = api.elbo_loss(recon, target, kl=kl, reduction="sample", **settings)
    return values, *torch.autograd.grad(values.sum(), leaves)


def column(values, dtype, device, requires_grad=True):
    return torch.tensor(values, dtype=F64).to(device, dtype).reshape(-1, 1).requires_grad_(requires_grad)


def assert_right(ours, truth, size):
    """Finite, and off by a rounding of the result and a few of ``size``, what the parts of it are made of."""
    assert ours.isfinite().all()
    allowed = ROUNDING[ours.dtype] * truth.abs() + UNDERFLOW[ours.dtype]
    # Below the smallest normal number of float32 an exponential is 0.
    allowed = allowed + arithmetic_error(accumulation_dtype(ours.dtype), ours.device) * size + 1.2e-38
    assert ((ours.double() - truth).abs() <= allowed).all(), (ours, truth)


def pairs(first, second):
    return zip(*itertools.product(first, second), strict=True)


@APIS
@on_dtypes
def test_logits(device, api, dtype):
    logits = [
        0.0,
        -0.0,
        *(sign * size for sign in (1, -1) for size in (1e-4, 0.5, 8.0, 20.0, 86, 88, 95, 104, 800, 1e4)),
    ]
    recon, target = (column(values, dtype, device) for values in pairs(logits, [0.0, 0.25, 0.999, 1.0]))
    ours = per_element(api, recon, target, recon_loss="bce_with_logits")
    exact, exact_target = (t.detach().to(F64).requires_grad_() for t in (recon, target))
    # PyTorch's own value cancels for a large logit that is right, in float64 too.
    against = torch.where(exact > 0, 1 - exact_target, exact_target)
    values = exact.abs() * against + torch.log1p(torch.exp(-exact.abs()))
    truth = (values.flatten(), torch.sigmoid(exact) - exact_target, -exact)
    for one, expected in zip(ours, truth, strict=True):
        scale = expected.detach().abs() if one.dim() == 1 else torch.maximum(expected.abs(), torch.ones_like(expected))
        assert_right(one.detach(), expected.detach(), scale)


@APIS
@on_dtypes
@pytest.mark.parametrize("recon_loss", ["gaussian_nll", "laplace_nll"])
@pytest.mark.parametrize("sigma", ["number", "scalar", "element"])
def test_log_sigma(device, api, dtype, recon_loss, sigma):
    differences = [0.0, 1e-3, -0.5, 3.0, 100.0]
    for log_sigma in (-30.0, -3.0, 0.0, 3.0, 30.0):
        recon = column(differences, dtype, device)
        target = torch.zeros_like(recon, requires_grad=True)
        exact = [t.detach().to(F64).requires_grad_() for t in (recon, target)]
        of_one = torch.full((), log_sigma, dtype=dtype, device=device, requires_grad=True)
        given = {"number": log_sigma, "scalar": of_one}.get(sigma)
        if given is None:
            given = torch.full_like(recon, log_sigma).detach().requires_grad_()
        exact_sigma = given.detach().to(F64).requires_grad_() if isinstance(given, torch.Tensor) else given
        ours = per_element(api, recon, target, recon_loss=recon_loss, log_sigma=given)
        values = elements(*exact, recon_loss, exact_sigma).flatten()
        leaves = exact + ([exact_sigma] if isinstance(given, torch.Tensor) else [])
        truth = (values, *torch.autograd.grad(values.sum(), leaves))
        largest = torch.finfo(dtype).max
        for one, expected in zip(ours, truth, strict=True):
            size = expected.detach().abs()
            if one.dtype == torch.float16 or (one.dim() != 1 and size.max() > largest):
                # Right where the gradient is within the range of its dtype, and infinite beyond.
                within = size <= largest
                assert (one.double()[~within].abs() == torch.inf).all()
                assert_right(one.detach()[within], expected.detach()[within], size[within] + 1)
            else:
                assert_right(one.detach(), expected.detach(), size + 30)


@APIS
@on_dtypes
@pytest.mark.parametrize("recon_loss", ["gaussian_nll", "laplace_nll"])
@pytest.mark.parametrize("sigma", ["number", "scalar", "element"])
@pytest.mark.parametrize("reduction", ["sample", "sum"])
def test_no_difference_is_no_error_however_small_sigma_is(device, api, dtype, recon_loss, sigma, reduction):
    for log_sigma in (-50.0, -89.0, -300.0, -400.0):
        recon = column([0.0, 0.5, 1e3], dtype, device)
        target = recon.detach().clone().requires_grad_()
        shape = {"number": None, "scalar": (), "element": recon.shape}[sigma]
        given = log_sigma if shape is None else torch.full(shape, log_sigma, dtype=dtype, device=device)
        leaves = [recon, target] if shape is None else [recon, target, given.requires_grad_()]
        kl = torch.zeros(3, device=device)
        loss = api.elbo_loss(recon, target, kl=kl, reduction=reduction, recon_loss=recon_loss, log_sigma=given)
        assert torch.equal(loss.double(), torch.full_like(loss, log_sigma if reduction == "sample" else 3 * log_sigma))
        to_recon, to_target, *to_sigma = torch.autograd.grad(loss.sum(), leaves)
        assert (to_recon == 0).all()
        assert (to_target == 0).all()
        for slope in to_sigma:
            assert torch.equal(slope, torch.full_like(slope, 3.0 / slope.numel()))


@APIS
@pytest.mark.parametrize("recon_loss", ["gaussian_nll", "laplace_nll"])
@pytest.mark.parametrize("log_sigma", [-2.0, -89.0])
def test_second_derivative_where_there_is_no_difference(device, api, recon_loss, log_sigma):
    recon, target = column([0.5], torch.float32, device), column([0.5], torch.float32, device, False)
    given = torch.full((1, 1), log_sigma, device=device, requires_grad=True)
    loss = api.elbo_loss(recon, target, kl=torch.zeros(1, device=device), recon_loss=recon_loss, log_sigma=given)
    (slope,) = torch.autograd.grad(loss, recon, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), recon, allow_unused=True, materialize_grads=True)
    assert slope.item() == 0
    exact = torch.full_like(curvature, -2.0 * log_sigma).exp() if recon_loss == "gaussian_nll" else torch.zeros(1, 1)
    torch.testing.assert_close(curvature, exact.to(device))


@APIS
@on_dtypes
def test_probabilities_of_0_and_1(device, api, dtype):
    smallest = torch.finfo(dtype).tiny
    probabilities = [0.0, smallest, 1e-6, 0.02, 0.5, 1.0 - torch.finfo(dtype).eps, 1.0]
    recon, target = (column(values, dtype, device) for values in pairs(probabilities, [0.0, 0.25, 1.0]))
    values, to_recon, to_target = per_element(api, recon, target, recon_loss="bce")
    # PyTorch in the dtype of the arithmetic, because where its floors apply depends on it.
    wide = accumulation_dtype(dtype)
    exact, exact_target = (t.detach().to(wide).requires_grad_() for t in (recon, target))
    truth = torch.nn.functional.binary_cross_entropy(exact, exact_target, reduction="none")
    expected = torch.autograd.grad(truth.sum(), [exact, exact_target])
    torch.testing.assert_close(values, truth.detach().flatten(), rtol=1e-6, atol=1e-6)
    # Beyond the largest number of its dtype a gradient is infinite.
    torch.testing.assert_close(
        to_recon, expected[0].to(dtype), rtol=2e-3 if dtype != torch.bfloat16 else 1e-2, atol=1e-6
    )
    logarithms = torch.log1p(-exact).clamp(min=-100) - torch.log(exact).clamp(min=-100)
    torch.testing.assert_close(to_target, logarithms.detach().to(dtype), rtol=8e-3, atol=2e-6)


@APIS
@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_not_a_number(device, api, probability):
    recon, target = column([probability, 0.5], torch.float32, device), column([0.3, 0.5], torch.float32, device, False)
    values, _ = per_element(api, recon, target, recon_loss="bce")
    assert values[0].isnan()
    assert values[1].isfinite()


@APIS
@on_dtypes
@pytest.mark.parametrize("recon_loss", ["l1", "smooth_l1", "mse"])
def test_large_differences(device, api, dtype, recon_loss):
    sizes = [0.0, 1.0, -1.0, 1e3, -6e4]
    recon = column(sizes, dtype, device)
    ours = per_element(api, recon, torch.zeros_like(recon), recon_loss=recon_loss)
    exact = recon.detach().to(F64).requires_grad_()
    values = elements(exact, torch.zeros_like(exact), recon_loss).flatten()
    (gradient,) = torch.autograd.grad(values.sum(), exact)
    assert_right(ours[0].detach(), values.detach(), values.detach())
    if recon_loss != "mse":  # whose gradient is beyond float16
        assert_right(ours[1], gradient, gradient.abs())
