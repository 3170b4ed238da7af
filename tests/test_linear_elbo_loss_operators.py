"""The operators behind linear_elbo_loss: derivatives, tracing, transforms, and the work and the memory they need."""

from __future__ import annotations

import pytest
import torch
from helpers.memory import peak_bytes
from helpers.output_layer import copies, gradients, in_two_steps, operands
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.profiler import ProfilerActivity, profile

import vae_fused as vf
from vae_fused._arguments_linear import LINEAR_RECON_LOSSES
from vae_fused._library import ops

needs_extension = pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")
REDUCTIONS = ("batchmean", "sum", "sample", "mean")
PARAMETERS = ("hidden", "weight", "bias")


def layer(dtype=torch.float64, rows=(3, 2), device="cpu"):
    return {n: t for n, t in operands(rows, (2, 3), dtype, device).items() if n not in ("mu", "logvar")}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("rows", [(3,), (2, 2)], ids=str)
@pytest.mark.parametrize("recon_loss", LINEAR_RECON_LOSSES)
def test_first_and_second_derivatives(device, reduction, rows, recon_loss):
    leaves = operands(rows, (2, 3), device=device)
    beta = torch.tensor(0.6, dtype=torch.float64, device=device, requires_grad=True)

    def loss(*tensors):
        *operands, beta = tensors
        return vf.linear_elbo_loss(*operands, beta=beta, recon_loss=recon_loss, reduction=reduction, chunk=2)

    assert gradcheck(loss, (*leaves.values(), beta))
    assert gradgradcheck(loss, (*leaves.values(), beta))


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_operators(device, dtype, reduction):
    leaves = layer(dtype, device=device)
    settings = ("bce_with_logits" if reduction == "sum" else "mse", reduction, 4)
    opcheck(ops.linear_reconstruction.default, (*leaves.values(), *settings))
    incoming = torch.rand((3,) if reduction == "sample" else (), dtype=torch.float64).to(device).requires_grad_()
    mask = [True] * 4
    opcheck(ops.linear_reconstruction_backward.default, (incoming, *leaves.values(), *settings, mask))
    constants = [t.detach() for t in leaves.values()]
    if reduction != "sample":
        opcheck(ops.linear_reconstruction_with_gradients.default, (*constants, *settings, [True] * 3))
    opcheck(ops.scale_gradients_.default, (constants[:2], incoming.detach().sum()))


@needs_extension
def test_inner_operators_refuse_differentiation(device):
    leaves = layer(device=device)
    got = ops.linear_reconstruction_with_gradients(*leaves.values(), "mse", "sum", None, [True] * 3)
    with pytest.raises(RuntimeError, match="not implemented"):
        got[0].backward()
    with pytest.raises(ValueError, match="reduction must not be sample"):
        ops.linear_reconstruction_with_gradients(*layer().values(), "mse", "sample", None, [True] * 3)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("factors", [(1, 1), (1, 3), (3, 1), (2, 2)], ids=str)
def test_second_backward_is_right_and_leaves_the_first_alone(device, reduction, factors):
    leaves = operands(device=device)
    theirs = copies(leaves)
    expected = torch.autograd.grad(in_two_steps(**theirs, reduction=reduction).sum(), list(theirs.values()))
    loss = vf.linear_elbo_loss(**leaves, reduction=reduction, chunk=4).sum()
    handed_over = []
    for factor in factors:
        (factor * loss).backward(retain_graph=True)
        for leaf, value in zip(leaves.values(), expected, strict=True):
            torch.testing.assert_close(leaf.grad, factor * value, rtol=1e-12, atol=1e-13)
            handed_over.append((leaf.grad, leaf.grad.clone()))
            leaf.grad = None
    assert all(torch.equal(gradient, copy) for gradient, copy in handed_over)


def test_gradients_of_some_operands_first(device):
    leaves = operands(device=device)
    theirs = copies(leaves)
    expected = dict(zip(theirs, torch.autograd.grad(in_two_steps(**theirs), list(theirs.values())), strict=True))
    loss = vf.linear_elbo_loss(**leaves, chunk=4)
    for names in (["weight"], ["hidden", "target"], ["weight", "bias"], list(leaves)):
        got = torch.autograd.grad(2 * loss, [leaves[name] for name in names], retain_graph=True)
        for name, gradient in zip(names, got, strict=True):
            torch.testing.assert_close(gradient, 2 * expected[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_batch_of_incoming_gradients(device, reduction):
    leaves = operands(device=device)
    loss = vf.linear_elbo_loss(**leaves, reduction=reduction, chunk=4)
    inputs = list(leaves.values())
    incoming = torch.rand(3, *loss.shape, dtype=torch.float64).to(device)
    one_by_one = [torch.autograd.grad(loss, inputs, one, retain_graph=True) for one in incoming]
    for _ in range(2):
        together = torch.autograd.grad(loss, inputs, incoming, is_grads_batched=True, retain_graph=True)
        for got, *expected in zip(together, *one_by_one, strict=True):
            torch.testing.assert_close(got, torch.stack(expected), rtol=1e-12, atol=1e-13)


def events_of(function, *names):
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        function()
    return [event.name for event in recorded.events() if event.name in names]


@needs_extension
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_frozen_operands_cost_no_product(device, hidden, weight, bias):
    leaves = operands(device=device)
    for name, wanted in (("hidden", hidden), ("weight", weight), ("bias", bias), ("target", False)):
        leaves[name].requires_grad_(wanted)

    def step():
        vf.linear_elbo_loss(**leaves, chunk=2).backward()

    # Three chunks: the layer itself, and one product each for the gradients of hidden and weight.
    assert len(events_of(step, "aten::addmm")) == 3 * (1 + hidden + weight)
    expected = "linear_reconstruction_with_gradients" if hidden or weight or bias else "linear_reconstruction"
    found = events_of(step, *(f"vae_fused::linear_reconstruction{s}" for s in ("", "_with_gradients", "_backward")))
    assert found.count(f"vae_fused::{expected}") >= 1
    assert "vae_fused::linear_reconstruction_backward" not in found


@needs_extension
def test_no_gradients_where_none_can_be_asked_for(device):
    leaves = operands(device=device)
    with torch.no_grad():
        assert len(events_of(lambda: vf.linear_elbo_loss(**leaves, chunk=2), "aten::addmm")) == 3


@needs_extension
@pytest.mark.parametrize("reduction", ["batchmean", "sample"])
def test_memory_is_one_chunk(reduction):
    rows, width_in, width_out, chunk = 512, 16, 4096, 32
    leaves = operands((rows,), (width_in, width_out), torch.float32)
    leaves["target"].requires_grad_(False)
    recon = 4 * rows * width_out
    parameters = sum(leaves[name].nbytes for name in PARAMETERS)

    def step(loss):
        loss.sum().backward()
        for leaf in leaves.values():
            leaf.grad = None

    fused = peak_bytes(lambda: step(vf.linear_elbo_loss(**leaves, reduction=reduction, chunk=chunk)))
    in_two = peak_bytes(lambda: step(in_two_steps(**leaves, reduction=reduction)))
    # A chunk of the reconstruction and one of its gradient; a block of the pool may be rounded up to 2 MiB.
    assert fused <= parameters + 2 * recon * chunk // rows + (2 << 20)
    # What it is measured against holds both as a whole, or else the measurement is blind.
    assert in_two >= 2 * recon


COMPILED = [("batchmean", "mse"), ("sample", "bce_with_logits"), ("mean", "l1")]


@pytest.mark.parametrize(("reduction", "recon_loss"), COMPILED)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_in_one_graph(device, reduction, recon_loss, backend):
    torch.compiler.reset()
    leaves, theirs = operands((5, 2), device=device), None
    theirs = copies(leaves)
    compiled = torch.compile(vf.linear_elbo_loss, fullgraph=True, backend=backend)
    settings = {"beta": 0.4, "recon_loss": recon_loss, "reduction": reduction}
    loss, expected = compiled(**leaves, **settings, chunk=4), in_two_steps(**theirs, **settings)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(loss, leaves), gradients(expected, theirs), rtol=1e-12, atol=1e-12)
    torch.compiler.reset()


@needs_extension
def test_compiled_layer_is_not_computed_twice(device):
    torch.compiler.reset()
    leaves = operands(device=device)
    leaves["target"].requires_grad_(False)
    compiled = torch.compile(vf.linear_elbo_loss, fullgraph=True, backend="aot_eager")
    compiled(**leaves, chunk=2).backward()
    found = events_of(lambda: compiled(**leaves, chunk=2).backward(), "aten::addmm")
    torch.compiler.reset()
    assert len(found) == 9


def test_inside_a_transform(device):
    leaves = layer(device=device)
    kl = torch.rand(3, dtype=torch.float64).to(device)

    def loss(hidden, weight, bias, target):
        return vf.linear_elbo_loss(hidden, weight, bias, target, kl=kl)

    got = torch.func.grad(loss, (0, 1, 2, 3))(*leaves.values())
    expected = torch.autograd.grad(loss(*leaves.values()), list(leaves.values()))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["batchmean", "sample"])
def test_autocast(device, dtype, reduction):
    leaves = operands((8,), (16, 32), torch.float32, device)
    theirs = copies(leaves)
    with torch.autocast(device.type, dtype):
        loss = vf.linear_elbo_loss(**leaves, reduction=reduction, chunk=3)
        expected = in_two_steps(**theirs, reduction=reduction)
    assert loss.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    for got, value in zip(gradients(loss, leaves), gradients(expected, theirs), strict=True):
        assert got.dtype == torch.float32
        assert (got - value).abs().max() <= 2 * torch.finfo(dtype).eps * value.abs().max()
    # In float32 the loss would differ: the cast took place.
    full = in_two_steps(**theirs, reduction=reduction)
    assert (full - expected).abs().max() > 10 * (loss - expected).abs().max()
