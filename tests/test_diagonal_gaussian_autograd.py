"""One pass, one packed gradient; derivatives of any order; compile, transforms and autocast."""

from __future__ import annotations

import pytest
import torch
from helpers.gaussian import CLAMP, Plain, moments_of
from helpers.inputs import key_of, keys_of
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import vae_fused as vf

F64 = torch.float64
has_kernels = pytest.mark.skipif(not vf.build_info()["extension"], reason="the reference is made of many operators")
layouts = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)


class Recorder(TorchDispatchMode):
    """The operators that reach the dispatcher below autograd."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def operators_in(function):
    """Those that reached the dispatcher, and all that ran inside of them too."""
    with Recorder() as recorder:
        function()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        function()
    return recorder.seen, {event.name for event in recorded.events() if "::" in event.name and " " not in event.name}


# What a kernel's host code may use: memory for results, and views of the halves.
HARMLESS = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::slice", "aten::as_strided", "aten::detach"}


@has_kernels
@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sample_and_kl_are_one_pass_each_way(device, memory_format, dtype):
    moments = moments_of((2, 8, 4, 4), dtype, device).contiguous(memory_format=memory_format).requires_grad_()
    key, weights, results = key_of(1, 0, device), (torch.randn(2, 4, 4, 4), torch.randn(2)), []
    weights = (weights[0].to(device, dtype), weights[1].to(device))

    def forward():
        posterior = vf.DiagonalGaussian(moments, 1, CLAMP)
        results[:] = posterior.sample(key=key), posterior.kl()

    def backward():
        torch.autograd.grad(results, moments, weights, retain_graph=True)

    direct, inside = operators_in(forward)
    assert direct == ["vae_fused.packed_reparameterize_with_kl.default"]
    assert {name for name in inside if not name.startswith("vae_fused::")} <= HARMLESS
    direct, inside = operators_in(backward)
    assert direct == ["vae_fused.packed_reparameterize_backward.default"]
    assert {name for name in inside if name.startswith("aten::")} <= HARMLESS


@has_kernels
@layouts
def test_kl_is_one_pass_each_way(device, memory_format):
    moments, prior = (
        moments_of((2, 8, 4, 4), device=device).contiguous(memory_format=memory_format).requires_grad_() for _ in "ab"
    )
    results, weight = [], torch.ones(2, device=device)

    def forward():
        results[:] = [vf.DiagonalGaussian(moments).kl(vf.DiagonalGaussian(prior, 1, CLAMP))]

    def backward():
        torch.autograd.grad(results, (moments, prior), weight, retain_graph=True)

    direct, inside = operators_in(forward)
    assert [name for name in direct if name.startswith("vae_fused")] == ["vae_fused.packed_kl_divergence.default"]
    assert {name for name in inside if name.startswith("aten::")} <= HARMLESS | {"aten::narrow"}  # to check the shapes
    direct, inside = operators_in(backward)
    assert direct == ["vae_fused.packed_kl_divergence_backward.default"]
    assert {name for name in inside if name.startswith("aten::")} <= HARMLESS


@has_kernels
@pytest.mark.parametrize("frozen", ["moments", "prior"])
def test_no_gradient_is_written_for_a_frozen_one(device, frozen):
    moments, prior = (moments_of((2, 8, 4), device=device) for _ in "ab")
    (prior if frozen == "moments" else moments).requires_grad_()
    kl = vf.DiagonalGaussian(moments).kl(vf.DiagonalGaussian(prior))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        kl.sum().backward()
    (event,) = (e for e in recorded.events() if e.name == "vae_fused::packed_kl_divergence_backward")
    assert event.concrete_inputs[-1] == [frozen == "prior", frozen == "moments"]
    assert (moments.grad is None) == (frozen == "moments")


DERIVED = {
    "z": lambda q, p, key: q.sample(key=key),
    "kl": lambda q, p, key: q.kl(),
    "z and kl": lambda q, p, key: (q.sample(key=key), q.kl()),
    "kl from another": lambda q, p, key: q.kl(p),
    "nll": lambda q, p, key: q.nll(p.mean),
}


@pytest.mark.parametrize("function", DERIVED.values(), ids=DERIVED)
@pytest.mark.parametrize("clamp", [CLAMP, None], ids=["clamped", "unclamped"])
@pytest.mark.parametrize(("shape", "dim"), [((2, 4), 1), ((2, 3, 4), -1), ((2, 4, 1, 2, 1), 1)], ids=str)
@pytest.mark.parametrize("per_item", [False, True], ids=["one key", "key per item"])
def test_first_and_second_derivatives(device, function, clamp, shape, dim, per_item):
    key = keys_of([4, 5], device) if per_item else key_of(3, 1, device)
    # Away from the bounds, where finite differences fail.
    inputs = [(3 * torch.rand(shape, dtype=F64) - 2.2).to(device).requires_grad_() for _ in "qp"]
    inputs = [torch.where((t + 0.5).abs() > 0.99, 2 * t, t).detach().requires_grad_() for t in inputs]
    bounds = None if clamp is None else (-1.5, 0.5)

    def of(moments, prior):
        return function(vf.DiagonalGaussian(moments, dim, bounds), vf.DiagonalGaussian(prior, dim, bounds), key)

    assert gradcheck(of, inputs)
    assert gradgradcheck(of, inputs)


def everything(moments, prior, key):
    posterior = vf.DiagonalGaussian(moments, 1, CLAMP)
    z = posterior.sample(key=key)
    kl = posterior.kl() + posterior.kl(vf.DiagonalGaussian(prior, 1, None))
    return z, kl, posterior.nll(z.detach()), posterior.mean + posterior.logvar + posterior.std + posterior.var


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(device, backend, dynamic):
    torch.compiler.reset()
    compiled = torch.compile(everything, fullgraph=True, backend=backend, dynamic=dynamic)
    for batch in (3, 5):
        leaves = [moments_of((batch, 8, 6), device=device).requires_grad_() for _ in "ab"]
        key = key_of(3, 1, device)
        ours, expected = compiled(*leaves, key), everything(*leaves, key)
        torch.testing.assert_close(ours, expected)
        gradients = (torch.autograd.grad([o.sum() for o in outputs], leaves) for outputs in (ours, expected))
        torch.testing.assert_close(next(gradients), next(gradients))
    torch.compiler.reset()


def test_compile_with_the_default_generator(device):
    torch.compiler.reset()

    def sampled(moments):
        posterior = vf.DiagonalGaussian(moments, -1)
        return posterior.sample(), posterior.sample(), posterior

    moments = moments_of((3, 2, 6), device=device)
    first, second, posterior = torch.compile(sampled, fullgraph=True)(moments)
    assert (first != second).all()
    torch.testing.assert_close(posterior.kl(), vf.DiagonalGaussian(moments, -1).kl())
    torch.compiler.reset()


def test_compiled_gradients_belong_to_the_noise_under_checkpointing(device):
    torch.compiler.reset()

    def sampled(moments):
        return vf.DiagonalGaussian(moments, 1, None).sample()

    def checkpointed(moments):
        return torch.utils.checkpoint.checkpoint(sampled, moments, use_reentrant=False)

    moments = moments_of((3, 6), device=device).requires_grad_()
    z = torch.compile(checkpointed, fullgraph=True)(moments)
    (gradient,) = torch.autograd.grad(z.sum(), moments)
    torch.testing.assert_close(gradient[:, 3:], 0.5 * (z - moments[:, :3]).detach(), rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


def test_transforms(device):
    moments, key = moments_of((3, 4, 2), F64, device), key_of(2, 0, device)

    def total(moments, key=key):
        posterior = vf.DiagonalGaussian(moments, 1, CLAMP)
        return posterior.sample(key=key).square().sum() + posterior.kl().sum()

    leaf = moments.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(grad(total)(moments), expected)
    tangent = torch.randn_like(moments)
    torch.testing.assert_close(jvp(total, (moments,), (tangent,))[1], (expected * tangent).sum())
    keys = keys_of([1, 2, 3], device)
    by_item = vmap(grad(lambda m, k: total(m[None], k)))(moments, keys)
    (expected,) = torch.autograd.grad(total(leaf, keys), leaf)
    torch.testing.assert_close(by_item, expected)


def test_a_posterior_from_outside_is_a_constant_of_a_transform(device):
    posterior = vf.DiagonalGaussian(moments_of((3, 4), F64, device).requires_grad_())
    posterior.sample()
    weight = torch.rand(3, dtype=F64, device=device)
    torch.testing.assert_close(grad(lambda w: (w * posterior.kl()).sum())(weight), posterior.kl())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(device, dtype):
    layer = torch.nn.Conv2d(3, 8, 3).to(device)
    x = torch.randn(2, 3, 8, 8).to(device)
    with torch.autocast(device.type, dtype):
        moments = layer(x)
        posterior = vf.DiagonalGaussian(moments)
        z, kl = posterior.sample(key=key_of(1, 0, device)), posterior.kl()
        loss = (z.float().square().sum() + kl.sum()) / 2
    assert (moments.dtype, z.dtype, kl.dtype) == (dtype, dtype, torch.float32)
    expected = Plain.of(moments.double(), 1, (-30.0, 20.0)).kl()
    torch.testing.assert_close(kl.double(), expected, rtol=1e-6, atol=1e-6)
    loss.backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


def test_in_the_objective(device):
    moments = moments_of((3, 8), device=device).requires_grad_()
    posterior = vf.DiagonalGaussian(moments)
    x = torch.rand(3, 4, device=device)
    z = posterior.sample(key=key_of(1, 0, device))
    loss = vf.elbo_loss(z, x, kl=posterior.kl())
    expected = ((z - x).square().sum() + vf.kl_divergence(*moments.chunk(2, 1), reduction="sum")) / 3
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(v, moments, retain_graph=True)[0] for v in (loss, expected)]
    torch.testing.assert_close(*gradients)
