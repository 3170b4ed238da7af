"""Free bits and capacity against their formulas in plain PyTorch, as functions and inside FusedELBOLoss."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.inputs import images, latents
from helpers.tolerances import DTYPES
from torch.autograd import gradcheck, gradgradcheck

import vae_fused as vf
from vae_fused import reference

REDUCTIONS = ("batchmean", "sum", "sample", "mean")
SHAPE = (4, 3, 2, 5)  # [B, C, H, W]


# The formulas, each with its result for a whole batch as "batchmean".
FORMULAS = {
    "dimension": (vf.FreeBits(0.9), lambda kl: kl.mean(0).clamp(min=0.9).sum()),
    "dimension of an item": (vf.FreeBits(0.9, over="item"), lambda kl: kl.clamp(min=0.9).flatten(1).sum(1).mean()),
    "feature map": (vf.FreeBits(7.0, per="group"), lambda kl: kl.sum((2, 3)).mean(0).clamp(min=7.0).sum()),
    "feature map of an item": (
        vf.FreeBits(7.0, per="group", over="item"),
        lambda kl: kl.sum((2, 3)).clamp(min=7.0).sum(1).mean(),
    ),
    "place": (
        vf.FreeBits(2.3, per="group", group_dims=(2, 3)),
        lambda kl: kl.sum(1).mean(0).clamp(min=2.3).sum(),
    ),
    "total below": (
        vf.FreeBits(1000.0, per="total"),
        lambda kl: torch.full((), 1000.0, dtype=kl.dtype, device=kl.device),
    ),
    "total above": (vf.FreeBits(1.0, per="total"), lambda kl: kl.flatten(1).sum(1).mean()),
    "total of an item": (
        vf.FreeBits(25.0, per="total", over="item"),
        lambda kl: kl.flatten(1).sum(1).clamp(min=25.0).mean(),
    ),
    "capacity above": (vf.Capacity(40.0), lambda kl: (kl.flatten(1).sum(1).mean() - 40.0).abs()),
    "capacity below": (vf.Capacity(3.0), lambda kl: (kl.flatten(1).sum(1).mean() - 3.0).abs()),
    "capacity of an item": (vf.Capacity(25.0, over="item"), lambda kl: (kl.flatten(1).sum(1) - 25.0).abs().mean()),
    "one after the other": (
        [vf.FreeBits(0.9), vf.FreeBits(8.0, per="group"), vf.Capacity(25.0)],
        lambda kl: (kl.mean(0).clamp(min=0.9).sum((1, 2)).clamp(min=8.0).sum() - 25.0).abs(),
    ),
}
every_formula = pytest.mark.parametrize(("shaping", "formula"), FORMULAS.values(), ids=FORMULAS.keys())


def elements_of(mu, logvar):
    return reference.kl_divergence(mu, logvar, reduction="none")


@every_formula
def test_values_and_gradients(device, shaping, formula):
    kl = elements_of(*latents(SHAPE, torch.float64, device)).requires_grad_()
    ours, expected = vf.shape_kl(kl, shaping), formula(kl)
    torch.testing.assert_close(ours, expected, rtol=1e-13, atol=0)
    ours_gradient = torch.autograd.grad(ours, kl)[0]
    if expected.requires_grad:
        torch.testing.assert_close(ours_gradient, torch.autograd.grad(expected, kl)[0], rtol=1e-13, atol=0)
    else:
        assert not ours_gradient.any()


def test_the_formulas_have_both_sides_of_their_floors():
    kl = elements_of(*latents(SHAPE, torch.float64))
    for parts, floor in (
        (kl.mean(0), 0.9),
        (kl, 0.9),
        (kl.sum((2, 3)).mean(0), 7.0),
        (kl.sum((2, 3)), 7.0),
        (kl.sum(1).mean(0), 2.3),
        (kl.flatten(1).sum(1), 25.0),
    ):
        below = parts < floor
        assert below.any()
        assert not below.all()


@every_formula
def test_reductions_are_those_of_one_number(device, shaping, formula):
    kl = elements_of(*latents(SHAPE, torch.float64, device))
    batchmean = vf.shape_kl(kl, shaping)
    items = vf.shape_kl(kl, shaping, reduction="sample")
    assert items.shape == (4,)
    torch.testing.assert_close(items.mean(), batchmean, rtol=1e-13, atol=0)
    torch.testing.assert_close(vf.shape_kl(kl, shaping, reduction="sum"), items.sum(), rtol=1e-13, atol=0)
    torch.testing.assert_close(vf.shape_kl(kl, shaping, reduction="mean"), batchmean / 30, rtol=1e-13, atol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "shaping",
    [vf.FreeBits(0.0, over="item"), vf.FreeBits(0.0, per="total", over="item"), vf.Capacity(0.0, over="item")],
    ids=repr,
)
def test_zero_nats_leave_the_loss_as_it_is(device, shaping, reduction):
    operands = [t.requires_grad_() for t in (*images((4, 7), device=device), *latents((4, 6), device=device))]
    plain = vf.FusedELBOLoss(0.3, reduction=reduction)(*operands, return_terms=True)
    shaped = vf.FusedELBOLoss(0.3, reduction=reduction, kl_shaping=shaping)(*operands, return_terms=True)
    for ours, expected in zip(shaped, plain, strict=True):
        torch.testing.assert_close(ours, expected)
    for ours, expected in zip(
        *(torch.autograd.grad(terms.loss.sum(), operands) for terms in (shaped, plain)), strict=True
    ):
        torch.testing.assert_close(ours, expected)


@every_formula
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("beta", [0.7, torch.tensor(0.7, dtype=torch.float64)], ids=["float", "tensor"])
def test_the_module_adds_the_shaped_kl(device, shaping, formula, reduction, beta):
    operands = [
        t.requires_grad_() for t in (*images((4, 7), torch.float64, device), *latents(SHAPE, torch.float64, device))
    ]
    mu, logvar = operands[2:]
    terms = vf.FusedELBOLoss(beta, reduction=reduction, kl_shaping=shaping)(*operands, return_terms=True)
    plain = reference.elbo_loss(*operands, reduction=reduction, return_terms=True)
    torch.testing.assert_close(terms.reconstruction, plain.reconstruction, rtol=1e-13, atol=0)
    torch.testing.assert_close(terms.kl, plain.kl, rtol=1e-13, atol=0)
    assert not terms.kl.requires_grad
    kl = vf.shape_kl(elements_of(mu, logvar), shaping, reduction=reduction)
    expected = reference.elbo_loss(*operands, beta=0.0, reduction=reduction) + 0.7 * kl
    torch.testing.assert_close(terms.loss, expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(terms.loss.sum(), operands)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected.sum(), operands), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)
    if reduction == "batchmean":
        torch.testing.assert_close(kl, formula(elements_of(mu, logvar)), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "shaping", [vf.FreeBits(17.0, per="total"), vf.Capacity(17.0), vf.Capacity(17.0, over="item")], ids=repr
)
@pytest.mark.parametrize("reduction", REDUCTIONS[:3])
def test_the_kl_of_the_sampling_is_shaped_as_well(device, shaping, reduction):
    recon, target = images((4, 7), device=device)
    mu, logvar = latents(SHAPE, device=device)
    _, kl = vf.reparameterize_with_kl(mu, logvar)
    criterion = vf.FusedELBOLoss(0.3, reduction=reduction, kl_shaping=shaping)
    given, computed = (
        criterion(recon, target, kl=kl, return_terms=True),
        criterion(recon, target, mu, logvar, return_terms=True),
    )
    for a, b in zip(given, computed, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_low_precision_latents_have_a_float32_kl(device, dtype, reduction):
    operands = (*images((4, 7), dtype, device), *latents(SHAPE, dtype, device))
    wide = [t.double() for t in operands]
    criterion = vf.FusedELBOLoss(kl_shaping=[vf.FreeBits(0.4), vf.Capacity(25.0)], reduction=reduction)
    terms, expected = criterion(*operands, return_terms=True), criterion(*wide, return_terms=True)
    for ours, theirs in zip(terms, expected, strict=True):
        assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-6, atol=0)


@every_formula
def test_gradcheck(device, shaping, formula):
    mu, logvar = (t.requires_grad_() for t in latents((3, 2, 2, 1), torch.float64, device))
    recon, target = images((3, 2), torch.float64, device)

    def loss(recon, mu, logvar):
        return vf.FusedELBOLoss(0.7, kl_shaping=shaping)(recon, target, mu, logvar)

    assert gradcheck(loss, (recon.requires_grad_(), mu, logvar))
    assert gradgradcheck(loss, (recon, mu, logvar))


def test_nats_may_be_learned(device):
    kl = elements_of(*latents(SHAPE, torch.float64, device))
    nats = torch.tensor(0.4, dtype=torch.float64, device=device, requires_grad=True)
    assert gradcheck(lambda nats: vf.shape_kl(kl, vf.FreeBits(nats)), (nats,))


def test_parts_below_the_floor_have_no_gradient(device):
    mu = torch.tensor([[0.1, 2.0], [0.2, 3.0]], device=device, requires_grad=True)
    criterion = vf.FusedELBOLoss(kl_shaping=vf.FreeBits(0.25))
    loss = criterion(torch.zeros(2, 1, device=device), torch.zeros(2, 1, device=device), mu, torch.zeros_like(mu))
    (gradient,) = torch.autograd.grad(loss, mu)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 1.0], [0.0, 1.5]], device=device))


def test_nan_is_not_hidden_by_the_floor():
    kl = torch.tensor([[math.nan, 1.0], [0.1, 1.0]])
    for shaping in (vf.FreeBits(5.0), vf.FreeBits(5.0, per="total"), vf.Capacity(5.0)):
        assert vf.shape_kl(kl, shaping).isnan()
    # Each item by itself: the other one stays as it is.
    items = vf.shape_kl(kl, vf.FreeBits(5.0, per="total", over="item"), reduction="sample")
    assert items.isnan().tolist() == [True, False]


def test_latents_without_event_dimensions_have_one_dimension_each(device):
    recon, target = images((4, 7), device=device)
    mu, logvar = latents((4,), device=device)
    terms = vf.FusedELBOLoss(kl_shaping=vf.FreeBits(5.0))(recon, target, mu, logvar, return_terms=True)
    torch.testing.assert_close(terms.loss, terms.reconstruction + 5.0)


def test_bytes_and_in_place_gradients_stay_with_the_reconstruction(device):
    target = torch.randint(0, 256, (4, 6), dtype=torch.uint8, device=device)
    mu, logvar = latents((4, 3), device=device)
    source = torch.rand(4, 6, device=device, requires_grad=True)
    options = {"target_scale": 1 / 255, "kl_shaping": vf.Capacity(2.0)}
    losses = [
        vf.FusedELBOLoss(inplace=inplace, **options)(2.0 * source, target, mu, logvar) for inplace in (False, True)
    ]
    assert torch.equal(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, source)[0] for loss in losses))
