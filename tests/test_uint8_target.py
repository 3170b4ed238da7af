"""A target of bytes, read as target_scale * byte + target_shift inside the kernel: no float copy of the batch."""

from __future__ import annotations

import pytest
import torch
from helpers.errors import BOTH, Case, assert_refused, named
from helpers.inputs import latents
from helpers.layouts import channels_last, contiguous, misaligned, padded_rows, transposed
from helpers.tolerances import DTYPES, assert_loss_close, assert_rounded_once
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import vae_fused as vf
from vae_fused._library import ops

needs_kernels = pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")
READING = {"target_scale": 2 / 255, "target_shift": -1.0}
REDUCTIONS = ["batchmean", "sum", "sample", "mean"]


def batch(shape, dtype=torch.float32, device="cpu", layout=contiguous):
    recon = torch.rand(shape, dtype=torch.float64) * 2 - 1
    target = torch.randint(0, 256, shape, dtype=torch.uint8)
    target.view(-1)[:2] = torch.tensor([0, 255], dtype=torch.uint8)
    return layout(recon.to(device, dtype)).requires_grad_(), layout(target.to(device))


def latent_pair(items, device="cpu", dtype=torch.float32):
    return [t.requires_grad_() for t in latents((items, 3), dtype, device)]


def truth_of(recon, target, mu, logvar, reduction):
    """Values and the gradient to recon, in float64 from a float copy of the bytes."""
    recon = recon.detach().double().requires_grad_()
    data = target.double() * READING["target_scale"] + READING["target_shift"]
    loss = vf.reference.elbo_loss(recon, data, mu.double(), logvar.double(), beta=0.5, reduction=reduction)
    return loss.detach(), torch.autograd.grad(loss.sum(), recon)[0]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [contiguous, channels_last, misaligned, padded_rows, transposed])
@pytest.mark.parametrize("shape", [(3, 3, 8, 8), (2, 3, 37, 21), (40, 1, 5, 3)], ids=str)
def test_values_and_gradient(device, shape, layout, dtype, reduction):
    recon, target = batch(shape, dtype, device, layout)
    mu, logvar = latent_pair(shape[0], device, torch.float64 if dtype == torch.float64 else torch.float32)
    loss = vf.elbo_loss(recon, target, mu, logvar, beta=0.5, reduction=reduction, **READING)
    (gradient,) = torch.autograd.grad(loss.sum(), recon)
    true_loss, true_gradient = truth_of(recon, target, mu, logvar, reduction)
    assert_loss_close(loss, true_loss)
    # A gradient is a difference of numbers up to 2, times its weight.
    weight = {"batchmean": 2 / shape[0], "mean": 2 / recon.numel()}.get(reduction, 2.0)
    assert_rounded_once(gradient, true_gradient, 2 * weight)
    assert gradient.stride() == recon.stride() or layout is padded_rows


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_bytes_themselves_by_default(device, reduction):
    recon, target = batch((4, 6, 5), device=device)
    mu, logvar = latent_pair(4, device)
    as_bytes = vf.elbo_loss(recon, target, mu, logvar, reduction=reduction)
    as_floats = vf.elbo_loss(recon, target.float(), mu, logvar, reduction=reduction)
    assert torch.equal(as_bytes, as_floats)


def test_incoming_gradients_second_backward_and_double_backward(device):
    recon, target = batch((3, 7), device=device)
    mu, logvar = latent_pair(3, device)
    loss = vf.elbo_loss(recon, target, mu, logvar, **READING)
    true_gradient = truth_of(recon, target, mu, logvar, "batchmean")[1].float()
    for scale in (3.0, 1.0):
        (gradient,) = torch.autograd.grad(scale * loss, recon, retain_graph=True)
        torch.testing.assert_close(gradient, scale * true_gradient)
    (gradient,) = torch.autograd.grad(loss, recon, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), recon)
    torch.testing.assert_close(second, 4 / 3 * true_gradient)  # d|2 r / B|^2 = 2 * (2 / B) * (2 r / B)


def test_module(device):
    recon, target = batch((3, 2, 4, 4), device=device)
    mu, logvar = latent_pair(3, device)
    criterion = vf.FusedELBOLoss(beta=0.5, **READING)
    terms = criterion(recon, target, mu, logvar, return_terms=True)
    assert_loss_close(terms.loss, truth_of(recon, target, mu, logvar, "batchmean")[0])
    assert "target_scale=0.00784" in repr(criterion)
    assert "target_shift=-1.0" in repr(criterion)
    assert "target_scale" not in repr(vf.FusedELBOLoss())


@needs_kernels
def test_no_float_copy_of_the_batch_is_made(device):
    class Largest(TorchDispatchMode):
        calls: list[str]

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls.append(str(func))
            return func(*args, **(kwargs or {}))

    recon, target = batch((2, 3, 16, 16), device=device, layout=channels_last)
    mu, logvar = latent_pair(2, device)
    with Largest() as mode:
        mode.calls = []
        vf.elbo_loss(recon, target, mu, logvar, **READING).backward()
    assert {name for name in mode.calls if "vae_fused" not in name} <= {"aten.ones_like.default", "aten.detach.default"}


@needs_kernels
@pytest.mark.parametrize("reduction", ["batchmean", "sample"])
def test_opcheck(device, reduction):
    recon, target = batch((2, 3, 4, 5), device=device)
    operands = (recon, target, *latent_pair(2, device), None, 0.5, None, "mse", reduction)
    opcheck(ops.elbo_loss.default, operands, READING)
    grad = torch.ones((2,) if reduction == "sample" else (), device=device, requires_grad=True)
    opcheck(ops.elbo_loss_backward.default, (grad, [True, False, True, True, False, False], *operands), READING)


@needs_kernels
def test_compiled_and_transformed(device):
    recon, target = batch((3, 4), device=device)
    mu, logvar = (t.detach() for t in latent_pair(3, device))

    def objective(recon):
        return vf.elbo_loss(recon, target, mu, logvar, **READING)

    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")(recon)
    assert torch.equal(compiled, objective(recon))
    expected = torch.autograd.grad(objective(recon), recon)[0]
    torch.testing.assert_close(torch.autograd.grad(compiled, recon)[0], expected)
    torch.testing.assert_close(torch.func.grad(objective)(recon.detach()), expected)


GOOD = {
    "recon": torch.zeros(3, 5),
    "target": torch.zeros(3, 5, dtype=torch.uint8),
    "mu": torch.zeros(3, 2),
    "logvar": torch.zeros(3, 2),
}
ONLY_BYTES = "target_scale and target_shift say how a uint8 target is read, got a target of torch.float32"
CASES = [
    Case({"target": torch.zeros(3, 5), "target_scale": 2.0}, ValueError, ONLY_BYTES),
    Case({"target": torch.zeros(3, 5), "target_shift": 0.5}, ValueError, ONLY_BYTES),
    Case({"target_scale": "1"}, TypeError, "target_scale must be a number, got str"),
    Case({"target_shift": None}, TypeError, "target_shift must be a number, got NoneType"),
    Case({"target_shift": torch.zeros(())}, TypeError, "target_shift must be a number, got Tensor"),
    Case({"target_scale": True}, TypeError, "target_scale must be a number, got bool"),
    Case({"recon": GOOD["target"]}, TypeError, "recon must be float16, bfloat16, float32 or float64, got torch.uint8"),
    Case(
        {"target": torch.zeros(3, 5, dtype=torch.int8)},
        TypeError,
        "target must be uint8, float16, bfloat16, float32 or float64, got torch.int8",
    ),
]


@BOTH
@named(CASES)
def test_refused(api, case):
    assert_refused(api.elbo_loss, GOOD, case)


def test_module_refuses_what_is_no_number():
    with pytest.raises(TypeError, match="target_scale must be a number, got list"):
        vf.FusedELBOLoss(target_scale=[1.0])


@pytest.mark.parametrize("recon_loss", ["mse", "l1"])
def test_backward_operator_has_no_gradient_for_bytes(device, recon_loss):
    recon, target = torch.rand(3, 5, device=device), torch.full((3, 5), 7, dtype=torch.uint8, device=device)
    latent, factor = torch.zeros(3, 2, device=device), torch.ones((), device=device)
    arguments = (factor, (True,) * 6, recon, target, latent, latent, None, 1.0, None, recon_loss, "sum")
    gradients = torch.ops.vae_fused.elbo_loss_backward(*arguments, target_scale=1 / 255)
    assert [gradient is None for gradient in gradients] == [False, True, False, False, True, True]
