"""Free bits and capacity in compiled steps, under transforms, copied and printed; and errors."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from helpers.inputs import images, latents

import vae_fused as vf

REDUCTIONS = ("batchmean", "sum", "sample", "mean")


def test_a_compiled_step_follows_the_capacity_without_recompiling(device):
    torch.compiler.reset()
    operands = [t.requires_grad_() for t in (*images((4, 3, 5), device=device), *latents((4, 6), device=device))]
    capacity, warm_up = vf.LinearSchedule(0.0, 25.0, steps=5), vf.LinearSchedule(0.0, 1.0, steps=3)
    criterion = vf.FusedELBOLoss(warm_up.tensor, kl_shaping=[vf.FreeBits(0.4), vf.Capacity(capacity.tensor)])
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    compiled(*operands)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(7):
            capacity.step()
            warm_up.step()
            loss, expected = compiled(*operands), criterion(*operands)
            torch.testing.assert_close(loss, expected)
            for ours, theirs in zip(*(torch.autograd.grad(x, operands) for x in (loss, expected)), strict=True):
                torch.testing.assert_close(ours, theirs)
    torch.compiler.reset()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(device, reduction, dynamic):
    torch.compiler.reset()
    for shaping in (vf.FreeBits(0.4), vf.FreeBits(5.0, per="group"), vf.Capacity(9.0, over="item")):
        operands = (*images((4, 7), device=device), *latents((4, 3, 2), device=device))
        criterion = vf.FusedELBOLoss(0.3, reduction=reduction, kl_shaping=shaping)
        compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        for ours, theirs in zip(
            compiled(*operands, return_terms=True), criterion(*operands, return_terms=True), strict=True
        ):
            torch.testing.assert_close(ours, theirs)
    torch.compiler.reset()


@pytest.mark.parametrize(
    "shaping", [vf.FreeBits(0.4), vf.FreeBits(3.0, per="total"), [vf.FreeBits(0.4), vf.Capacity(2.0)]], ids=repr
)
@pytest.mark.parametrize("reduction", ["batchmean", "mean"])
def test_gradients_of_items_by_transforms(device, shaping, reduction):
    operands = (*images((4, 7), torch.float64, device), *latents((4, 3), torch.float64, device))
    criterion = vf.FusedELBOLoss(0.3, reduction=reduction, kl_shaping=shaping)

    def loss_of_item(mu, recon, target, logvar):
        return criterion(*(t.unsqueeze(0) for t in (recon, target, mu, logvar)))

    recon, target, mu, logvar = operands
    found = torch.func.vmap(torch.func.grad(loss_of_item))(mu, recon, target, logvar)
    for item in range(4):
        leaf = mu[item].clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss_of_item(leaf, recon[item], target[item], logvar[item]), leaf)
        torch.testing.assert_close(found[item], expected)


def test_the_shaping_may_be_set_later():
    operands = (*images((4, 7)), *latents((4, 3)))
    criterion = vf.FusedELBOLoss()
    for shaping in (vf.FreeBits(0.4), [vf.FreeBits(0.4), vf.Capacity(2.0)], None):
        criterion.kl_shaping = shaping
        assert torch.equal(criterion(*operands), vf.FusedELBOLoss(kl_shaping=shaping)(*operands))
    with pytest.raises(TypeError, match="kl_shaping must be FreeBits, Capacity or a sequence"):
        criterion.kl_shaping = 0.5
    assert criterion.kl_shaping == ()


def test_copies_and_repr():
    criterion = vf.FusedELBOLoss(beta=0.5, kl_shaping=[vf.FreeBits(0.5, per="group"), vf.Capacity(25.0)])
    assert repr(criterion) == (
        "FusedELBOLoss(beta=0.5, recon_loss='mse', reduction='batchmean', kl_shaping=["
        "FreeBits(0.5, over='batch', per='group', group_dims=(1,)), Capacity(25.0, over='batch')])"
    )
    operands = (*images((4, 7)), *latents((4, 3)))
    assert torch.equal(copy.deepcopy(criterion)(*operands), criterion(*operands))
    assert criterion.state_dict() == {}


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: vf.FreeBits(-0.1), ValueError, "nats must be finite and not negative, got -0.1"),
        (lambda: vf.Capacity(math.inf), ValueError, "nats must be finite and not negative, got inf"),
        (lambda: vf.FreeBits("1"), TypeError, "nats must be a number, got str"),
        (lambda: vf.Capacity(torch.ones(2)), ValueError, r"nats must be a number or a 0-dimensional tensor, got shape"),
        (lambda: vf.Capacity(torch.tensor(1)), TypeError, "nats must be float16, bfloat16, float32 or float64"),
        (
            lambda: vf.FreeBits(1.0, per="pixel"),
            ValueError,
            "per must be one of dimension, group, total, got 'pixel'",
        ),
        (lambda: vf.Capacity(1.0, over="x"), ValueError, "over must be one of batch, item, got 'x'"),
        (lambda: vf.FreeBits(1.0, group_dims=0), ValueError, "group_dims must be dimensions after the batch"),
        (
            lambda: vf.FreeBits(1.0, group_dims=2.0),
            TypeError,
            "group_dims must be an integer or a sequence of integers, got float",
        ),
        (lambda: vf.FreeBits(1.0, group_dims="1"), TypeError, "group_dims must hold integers, got str"),
        (lambda: vf.FreeBits(1.0, group_dims=(1, 1)), ValueError, r"group_dims must hold each dimension once"),
        (lambda: vf.FusedELBOLoss(kl_shaping=0.5), TypeError, "kl_shaping must be FreeBits, Capacity or a sequence"),
        (lambda: vf.FusedELBOLoss(kl_shaping=[]), ValueError, "kl_shaping must hold at least one shaping"),
        (lambda: vf.shape_kl(torch.ones(3), None), TypeError, "shaping must be FreeBits, Capacity or a sequence"),
        (lambda: vf.shape_kl(torch.ones(3), vf.FreeBits(1.0)), ValueError, "needs the elementwise KL"),
        (lambda: vf.shape_kl(torch.ones(()), vf.Capacity(1.0)), ValueError, "kl must have a batch dimension 0"),
        (lambda: vf.shape_kl(torch.ones(3), vf.Capacity(1.0), reduction="x"), ValueError, "reduction must be one of"),
        (
            lambda: vf.shape_kl(torch.ones(3, 2), vf.FreeBits(1.0, per="group", group_dims=2)),
            ValueError,
            r"group_dims must be dimensions of the KL, \[3, 2\], got \(2,\)",
        ),
    ],
)
def test_errors(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_errors_of_the_operands():
    recon, target = images((4, 7))
    mu, logvar = latents((4, 3))
    criterion = vf.FusedELBOLoss(kl_shaping=vf.FreeBits(0.5))
    with pytest.raises(ValueError, match="got mu without logvar"):
        criterion(recon, target, mu)
    with pytest.raises(ValueError, match="target must have the shape of recon"):
        criterion(recon, target[:2], mu, logvar)
    with pytest.raises(ValueError, match="free bits per dimension or group need mu and logvar"):
        criterion(recon, target, kl=torch.ones(4))
    with pytest.raises(ValueError, match="kl cannot be given with reduction='mean'"):
        vf.FusedELBOLoss(reduction="mean", kl_shaping=vf.Capacity(1.0))(recon, target, kl=torch.ones(4))
