"""Derivatives of the reconstruction terms: finite differences, PyTorch's own, the ways of a backward, and its bits."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.eager import REDUCTIONS
from helpers.inputs import images
from helpers.layouts import LAYOUTS
from helpers.terms import TERMS, TermCase, eager_terms, on_formulas, on_terms, operands_of
from helpers.threads import threads
from helpers.tolerances import HALF_TYPES, ROUNDING, UNDERFLOW, arithmetic_error
from torch.autograd import gradcheck, gradgradcheck

import vae_fused as vf

F64 = torch.float64


def loss_of(operands, api=vf, **more):
    return api.elbo_loss(
        operands.recon, operands.target, operands.mu, operands.logvar, beta=0.7, **operands.settings, **more
    )


@on_terms
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, (2, 1)], ids=["plain", "weighted"])
def test_first_and_second_derivatives(device, term, reduction, weight):
    operands = operands_of(term, (3, 2, 2), F64, device, weight=weight)
    log_sigma = operands.settings.pop("log_sigma", None)
    learned = isinstance(log_sigma, torch.Tensor)

    def function(recon, target, mu, logvar, log_sigma=log_sigma):
        settings = dict(operands.settings) if log_sigma is None else {**operands.settings, "log_sigma": log_sigma}
        return vf.elbo_loss(recon, target, mu, logvar, beta=0.7, reduction=reduction, recon_weight=1.3, **settings)

    tensors = [operands.recon, operands.target, operands.mu, operands.logvar, *([log_sigma] if learned else [])]
    masks = [(True,) * len(tensors), (True, *[False] * (len(tensors) - 1)), (*[False] * (len(tensors) - 1), True)]
    for mask in masks:
        inputs = [t.detach().clone().requires_grad_(wanted) for t, wanted in zip(tensors, mask, strict=True)]
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@on_terms
@pytest.mark.parametrize("dtype", [*HALF_TYPES, torch.float32], ids=str)
@pytest.mark.parametrize("weight", [None, (6, 3, 50)], ids=["plain", "weighted"])
def test_gradients_are_as_good_as_eager(device, term, dtype, weight):
    operands = operands_of(term, (6, 3, 50), dtype, device, weight=weight, target_grad=True)
    exact = operands.to(F64)
    truth = torch.autograd.grad(eager_terms(exact, 0.7)[0], exact.leaves)
    # Eager in float32, rounded: half types lose more in eager's own steps, but its bce does not run in them.
    wide = operands.to(torch.float32) if dtype in HALF_TYPES else operands
    eager = torch.autograd.grad(eager_terms(wide, 0.7)[0], wide.leaves)
    for api in (vf, vf.reference):
        ours = torch.autograd.grad(loss_of(operands, api), operands.leaves)
        for leaf, one, other, expected in zip(operands.leaves, ours, eager, truth, strict=True):
            assert one.dtype == dtype
            error, eager_error = ((g.to(dtype).double() - expected).abs().max().item() for g in (one, other))
            # A few roundings of float32 in case that eager is exact by luck: of the largest element, or, for a shared
            # log sigma, of the numbers near 1 that are added.
            size = max(expected.abs().max().item(), operands.recon.numel() / leaf.numel() / 6)
            rounding = (
                ROUNDING[dtype] * expected.abs().max().item()
                + UNDERFLOW[dtype]
                + arithmetic_error(torch.float32, device) * size
            )
            assert error <= max(2.0 * eager_error, rounding), (error, eager_error)


@on_formulas
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_kernel_equals_reference_in_every_layout(device, term, layout):
    operands = operands_of(term, (2, 3, 4, 5), device=device, weight=(3, 1, 5))
    operands.recon = layout(operands.recon.detach()).detach().requires_grad_()
    operands.target = layout(operands.target).detach().requires_grad_()
    for reduction in ("batchmean", "sample"):
        ours, expected = (
            torch.autograd.grad(loss_of(operands, api, reduction=reduction).sum(), operands.leaves)
            for api in (vf, vf.reference)
        )
        torch.testing.assert_close(ours, expected)


@on_formulas
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_way_of_a_backward_gives_the_same(device, term, dtype):
    operands = operands_of(term, (3, 2, 40), dtype, device, weight=(40,))
    loss = loss_of(operands)
    expected = torch.autograd.grad(loss, operands.leaves, retain_graph=True)
    again = torch.autograd.grad(loss, operands.leaves, retain_graph=True)
    differentiable = torch.autograd.grad(loss, operands.leaves, retain_graph=True, create_graph=True)
    by_item = torch.autograd.grad(loss_of(operands, reduction="sample").sum() / 3, operands.leaves)
    for ours in (again, differentiable, by_item):
        torch.testing.assert_close(ours, expected)
    scaled = torch.autograd.grad(loss_of(operands) * 3.0, operands.leaves)
    torch.testing.assert_close(scaled, tuple(3.0 * gradient for gradient in expected))


@on_formulas
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_in_place(device, term, dtype, scale):
    operands = operands_of(term, (3, 2, 40), dtype, device, weight=(40,))
    leaves = operands.leaves
    expected = torch.autograd.grad(scale * loss_of(operands), leaves)
    operands.recon = operands.recon * 1  # no leaf
    address = operands.recon.data_ptr()
    handed_over = []
    operands.recon.register_hook(lambda gradient: handed_over.append(gradient.data_ptr()))
    ours = torch.autograd.grad(scale * loss_of(operands, inplace=True), leaves)
    torch.testing.assert_close(ours, expected)
    assert handed_over == [address]


@on_formulas
def test_the_gradient_of_a_byte_target_is_refused_and_others_are_right(device, term):
    operands = operands_of(term, (3, 40), device=device)
    operands.target = torch.randint(0, 256, (3, 40), dtype=torch.uint8, device=device)
    ours, expected = (
        torch.autograd.grad(loss_of(operands, api, target_scale=1 / 255), operands.leaves) for api in (vf, vf.reference)
    )
    torch.testing.assert_close(ours, expected)


@on_formulas
def test_log_sigma_alone(device, term):
    if term.sigma in ("", "number"):
        pytest.skip("has no log_sigma with a gradient")
    operands = operands_of(term, (3, 2, 40), device=device, weight=(40,))
    everything = torch.autograd.grad(loss_of(operands), operands.leaves)[-1]
    for name in ("recon", "mu", "logvar"):
        setattr(operands, name, getattr(operands, name).detach())
    (alone,) = torch.autograd.grad(loss_of(operands), operands.leaves)
    assert torch.equal(alone, everything)


@pytest.mark.parametrize("term", [t for t in TERMS if t.sigma in ("scalar", "channel", "element")], ids=str)
def test_bits_do_not_depend_on_the_threads(term):
    operands = operands_of(term, (5, 3, 40_000), weight=(40_000,))

    def everything():
        loss = loss_of(operands)
        by_item = loss_of(operands, reduction="sample")
        return [loss, by_item, *torch.autograd.grad(loss, operands.leaves, retain_graph=True),
                *torch.autograd.grad(by_item.sum(), operands.leaves)]  # fmt: skip

    with threads(1):
        alone = everything()
    for count in (2, 3):
        with threads(count):
            assert all(torch.equal(one, other) for one, other in zip(everything(), alone, strict=True))


def test_masked_elements_have_no_gradient(device):
    for term, dtype in itertools.product(TERMS, (torch.float32, torch.bfloat16)):
        operands = operands_of(term, (3, 2, 9), dtype, device)
        mask = torch.rand(3, 2, 9, device=device) < 0.5
        operands.settings["weight"] = mask
        gradient = torch.autograd.grad(loss_of(operands), operands.recon)[0]
        assert not gradient[~mask].any()
        assert gradient[mask].any()


def test_optimal_sigma(device):
    operands = operands_of(TermCase("gaussian_nll"), (4, 2, 30), F64, device, weight=(2, 30))
    operands.settings["log_sigma"] = "optimal"
    weight = operands.settings["weight"].expand(4, 2, 30)
    squares = (operands.recon - operands.target).square() * weight
    log_sigma = 0.5 * (squares.sum() / weight.sum()).log()
    floored = -6 + torch.nn.functional.softplus(log_sigma + 6)
    expected = (weight * ((operands.recon - operands.target).square() * torch.exp(-2 * floored) / 2 + floored)).sum()
    for api in (vf, vf.reference):
        operands.settings["log_sigma"] = "optimal"
        loss = api.elbo_loss(
            operands.recon, operands.target, operands.mu, operands.logvar, beta=0.0, reduction="sum",
            **operands.settings,
        )  # fmt: skip
        torch.testing.assert_close(loss, expected)
        ours, truth = (torch.autograd.grad(value, operands.recon, retain_graph=True) for value in (loss, expected))
        torch.testing.assert_close(ours, truth)
        # Without the floor no other sigma is better.
        operands.settings["log_sigma_floor"] = -torch.inf
        best = loss_of(operands, api)
        del operands.settings["log_sigma_floor"]
        for step in (-0.01, 0.01):
            operands.settings["log_sigma"] = log_sigma.item() + step
            assert loss_of(operands, api) > best


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_an_optimal_sigma_does_not_widen_the_loss(device, dtype):
    recon, target = torch.rand(2, 4, 3, device=device).to(dtype).unbind()
    settings = {"kl": torch.zeros(4, device=device), "recon_loss": "gaussian_nll", "log_sigma": "optimal"}
    expected = vf.elbo_loss(recon, target, **settings)
    assert expected.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    mapped = torch.func.vmap(lambda one: vf.elbo_loss(one, target, **settings))(recon[None])[0]
    for other in (mapped, vf.reference.elbo_loss(recon, target, **settings)):
        torch.testing.assert_close(other, expected)


def test_optimal_sigma_of_a_perfect_reconstruction(device):
    operands = operands_of(TermCase("gaussian_nll"), (4, 30), device=device)
    operands.recon = operands.target.clone().requires_grad_()
    operands.settings["log_sigma"] = "optimal"
    for api in (vf, vf.reference):
        loss = api.elbo_loss(operands.recon, operands.target, operands.mu.detach(), operands.logvar.detach(), beta=0.0,
                             reduction="sum", **operands.settings)  # fmt: skip
        torch.testing.assert_close(loss.item(), -6.0 * 4 * 30)
        (gradient,) = torch.autograd.grad(loss, operands.recon)
        assert not gradient.any()


@pytest.mark.parametrize("sigma", ["number", "scalar", "channel", "element"])
def test_floor(device, sigma):
    operands = operands_of(TermCase("laplace_nll", sigma), (3, 2, 5), F64, device)
    given = operands.settings["log_sigma"]
    floored = -0.5 + torch.nn.functional.softplus(torch.as_tensor(given, dtype=F64) + 0.5)
    for api in (vf, vf.reference):
        ours = loss_of(operands, api, log_sigma_floor=-0.5)
        expected = api.elbo_loss(
            operands.recon, operands.target, operands.mu, operands.logvar, beta=0.7, recon_loss="laplace_nll",
            log_sigma=floored,
        )  # fmt: skip
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(*(torch.autograd.grad(value, operands.leaves, retain_graph=True)
                                     for value in (ours, expected)))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("floor", [-6.0, -100.0, -1e5])
def test_floor_is_not_applied_in_half_precision(device, dtype, floor):
    recon, target = images((3, 2, 5), F64, device)
    log_sigma = torch.full((2, 1), -0.3, dtype=dtype, device=device, requires_grad=True)
    wide = log_sigma.detach().double().requires_grad_()
    settings = {"kl": torch.zeros(3, device=device), "recon_loss": "gaussian_nll"}
    for operand in (torch.float32, dtype):
        for api in (vf, vf.reference):
            narrow = recon.to(operand), target.to(operand)
            expected = vf.elbo_loss(
                *(t.double() for t in narrow), log_sigma=torch.logaddexp(wide, wide.new_tensor(floor)), **settings
            )
            ours = api.elbo_loss(*narrow, log_sigma=log_sigma, log_sigma_floor=floor, **settings)
            torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=0)
            slope = torch.autograd.grad(ours, log_sigma)[0]
            truth = torch.autograd.grad(expected, wide)[0]
            torch.testing.assert_close(slope.double(), truth, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)
