"""The value of every reconstruction term against PyTorch's own functions in float64."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.eager import REDUCTIONS, reduce
from helpers.inputs import SHAPES
from helpers.layouts import LAYOUTS
from helpers.terms import TERMS, TermCase, eager_terms, elements, on_formulas, on_terms, operands_of
from helpers.tolerances import DTYPES, loss_error

import vae_fused as vf

APIS = pytest.mark.parametrize("api", [vf, vf.reference], ids=["kernel", "reference"])


def call(api, operands, beta=0.7, **settings):
    return api.elbo_loss(
        operands.recon,
        operands.target,
        operands.mu,
        operands.logvar,
        beta=beta,
        return_terms=True,
        **operands.settings,
        **settings,
    )


def assert_terms_near(ours, truth, scale=None):
    """Relative to ``scale``, by default the value: a likelihood's log sigma may cancel against its error."""
    for one, expected in zip(ours, truth, strict=True):
        relative = 1e-12 if one.dtype == torch.float64 else 1e-6
        bound = relative * (expected.double().abs() + (0.0 if scale is None else scale))
        assert ((one.double() - expected).abs() <= bound).all(), (one, expected)


@APIS
@on_terms
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_reduction(device, api, term, shape, weighted):
    operands = operands_of(term, shape, torch.float64, device, weight=shape if weighted else None)
    for reduction in REDUCTIONS:
        truth = eager_terms(operands, 0.7, reduction, recon_weight=1.5)
        ours = call(api, operands, reduction=reduction, recon_weight=1.5)
        scale = reduce(elements(operands.recon, operands.target, **operands.settings).abs(), reduction).max()
        assert_terms_near(ours, truth, scale.item())
        assert torch.equal(ours.loss, ours.reconstruction + 0.7 * ours.kl) or torch.allclose(
            ours.loss, ours.reconstruction + 0.7 * ours.kl, rtol=1e-15
        )


@APIS
@on_terms
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_low_precision_is_as_good_as_eager(device, api, term, dtype):
    operands = operands_of(term, (6, 3, 50), dtype, device, weight=(6, 3, 50))
    exact = operands.to(torch.float64)
    # One e^-log_sigma for all elements has one rounding error for all, which eager's luck must not forbid.
    size = elements(exact.recon, exact.target, **exact.settings).abs().sum().item() / 6
    for ours, eager, expected in zip(call(api, operands, 1.0), eager_terms(operands), eager_terms(exact), strict=True):
        assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        error, eager_error = ((value.double() - expected).abs().item() for value in (ours, eager))
        assert error <= max(2.0 * eager_error, loss_error(ours.dtype, ours.device) * size), (error, eager_error)


@on_formulas
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_kernel_equals_reference_in_every_layout(device, term, layout):
    shape = (2, 3, 4, 5)
    operands = operands_of(term, shape, device=device, weight=(3, 1, 5))
    operands.recon, operands.target = layout(operands.recon.detach()), layout(operands.target)
    for reduction in REDUCTIONS:
        ours, expected = (call(api, operands, reduction=reduction) for api in (vf, vf.reference))
        torch.testing.assert_close(ours, expected)


@on_formulas
@pytest.mark.parametrize("weighted", [False, True])
def test_sum_is_that_of_the_samples(device, term, weighted):
    operands = operands_of(term, (5, 3, 700), device=device, weight=(3, 700) if weighted else None)
    operands.settings["recon_weight"] = 0.5
    by_item, total = (call(vf, operands, reduction=reduction) for reduction in ("sample", "sum"))
    for parts, whole in zip(by_item, total, strict=True):
        torch.testing.assert_close(parts.double().sum(), whole.double(), rtol=2e-7, atol=0)
    # An item's value depends on nothing but the item.
    items = operands.to(torch.float32)
    for name in ("recon", "target", "mu", "logvar"):
        setattr(items, name, getattr(operands, name)[2:3].detach())
    if term.sigma == "element":
        items.settings["log_sigma"] = items.settings["log_sigma"][2:3]
    alone = call(vf, items, reduction="sample")
    assert all(torch.equal(one[0], many[2]) for one, many in zip(alone, by_item, strict=True))


@APIS
@pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 1, 1), (4, 5), (), (2, 1, 4, 5)], ids=str)
def test_a_weight_broadcasts(device, api, dtype, shape):
    operands = operands_of(TermCase("mse"), (2, 3, 4, 5), device=device)
    weight = (torch.rand(shape, device=device) * 2).to(dtype)
    terms = api.elbo_loss(operands.recon, operands.target, operands.mu, operands.logvar, weight=weight,
                          return_terms=True)  # fmt: skip
    expected = (operands.recon.double() - operands.target.double()).square() * weight.double()
    assert terms.loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(terms.reconstruction.double(), expected.sum() / 2, rtol=1e-6, atol=1e-6)


@APIS
def test_a_mask_leaves_out_what_it_hides(device, api):
    operands = operands_of(TermCase("l1"), (3, 8), device=device)
    mask = torch.arange(8, device=device) % 2 == 0
    seen = api.elbo_loss(operands.recon[:, ::2], operands.target[:, ::2], operands.mu, operands.logvar, recon_loss="l1")
    masked = api.elbo_loss(operands.recon, operands.target, operands.mu, operands.logvar, recon_loss="l1", weight=mask)
    torch.testing.assert_close(masked, seen, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(masked, operands.recon)
    assert not gradient[:, ~mask].any()
    assert gradient[:, mask].all()


@APIS
@pytest.mark.parametrize(
    ("recon_loss", "constant"), [("gaussian_nll", 0.5 * math.log(2 * math.pi)), ("laplace_nll", math.log(2))]
)
@pytest.mark.parametrize("sigma", ["number", "scalar", "channel", "element"])
def test_full_adds_the_constant_of_every_element(device, api, recon_loss, constant, sigma):
    operands = operands_of(TermCase(recon_loss, sigma), (4, 3, 5), torch.float64, device, weight=(3, 5))
    without, full = (call(api, operands, full=full).reconstruction for full in (False, True))
    weights = operands.settings["weight"].expand(4, 3, 5).sum()
    torch.testing.assert_close(full - without, constant * weights / 4)


@APIS
@on_formulas
@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (0,)], ids=str)
def test_empty_tensors(device, api, term, shape):
    operands = operands_of(term, shape, device=device, weight=shape)
    for reduction in REDUCTIONS:
        terms = call(api, operands, reduction=reduction)
        expected = eager_terms(operands, 0.7, reduction)
        torch.testing.assert_close(tuple(terms), expected, equal_nan=True, check_dtype=False)
        if reduction == "sum":
            gradients = torch.autograd.grad(terms.loss, operands.leaves)
            assert all(g.shape == leaf.shape for g, leaf in zip(gradients, operands.leaves, strict=True))
            assert not any(gradient.any() for gradient in gradients[:1])


@on_formulas
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_in_its_item(device, term, bad):
    operands = operands_of(term, (4, 600), device=device)
    good = call(vf, operands, reduction="sample").reconstruction
    with torch.no_grad():
        operands.recon[1, 37] = bad
    terms = call(vf, operands, reduction="sample")
    assert not terms.reconstruction[1].isfinite()
    others = torch.tensor([0, 2, 3], device=device)
    assert torch.equal(terms.reconstruction[others], good[others])
    (gradient,) = torch.autograd.grad(terms.loss.sum(), operands.recon)
    assert gradient[others].isfinite().all()


@APIS
def test_a_given_kl(device, api):
    for term in TERMS:
        operands = operands_of(term, (3, 7), device=device)
        kl = vf.kl_divergence(operands.mu, operands.logvar, reduction="sample").detach()
        for reduction in ("batchmean", "sum", "sample"):
            given = api.elbo_loss(
                operands.recon, operands.target, kl=kl, beta=0.7, reduction=reduction, **operands.settings
            )
            torch.testing.assert_close(given, call(api, operands, reduction=reduction).loss)


@APIS
@on_formulas
def test_bytes_as_a_target(device, api, term):
    operands = operands_of(term, (3, 40), device=device, weight=(40,))
    target = torch.randint(0, 256, (3, 40), dtype=torch.uint8, device=device)
    reading = {"target_scale": 1 / 255, "target_shift": 0.0}
    operands.target = target
    ours = call(api, operands, **reading)
    operands.target = target.float() / 255
    torch.testing.assert_close(tuple(ours), tuple(call(api, operands)), rtol=1e-6, atol=1e-6)


def test_mixed_dtypes(device):
    operands = operands_of(TermCase("gaussian_nll", "element"), (3, 40), torch.bfloat16, device)
    operands.target = torch.rand(3, 40, device=device)
    operands.settings["log_sigma"] = torch.randn(3, 40, dtype=torch.float16, device=device)
    ours, expected = (call(api, operands) for api in (vf, vf.reference))
    assert ours.loss.dtype == torch.float32
    torch.testing.assert_close(ours, expected)
    operands.settings["log_sigma"] = operands.settings["log_sigma"].double()
    ours, expected = (call(api, operands) for api in (vf, vf.reference))
    assert ours.loss.dtype == expected.loss.dtype == torch.float64
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
