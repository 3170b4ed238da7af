"""The operators with every form of a scale: opcheck, compilation, threads and runs."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers import eager
from helpers.inputs import key_of
from helpers.layouts import LAYOUTS
from helpers.operators import UNTRACED, fused_operators_in, recording_backend
from helpers.posteriors import CLAMP, PARAMETERIZATIONS, SOME_FORMS, Form, mask_of, on_masks, on_some_forms
from helpers.threads import threads
from torch._dynamo.testing import CompileCounter
from torch.library import opcheck

import vae_fused as vf
from vae_fused._library import ops

needs_extension = pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")
SHAPE = (2, 3, 4, 5)
# Every parameterization; every clamp, temperature and mask with some of them.
CALLS = [(Form(name, 0.01 * (index % 2)), "none") for index, name in enumerate(PARAMETERIZATIONS)]
CALLS += [(form, masked) for form, masked in zip(SOME_FORMS, ["none", "weights", "bool"] * 2, strict=True)]
# In float32 and in bfloat16 by turns, contiguous and as half of a channels-last tensor.
LAYOUT = {torch.float32: LAYOUTS["contiguous"], torch.bfloat16: LAYOUTS["channels_last_half"]}
on_calls = pytest.mark.parametrize(
    ("form", "masked", "dtype"),
    [(*call, (torch.float32, torch.bfloat16)[index % 2]) for index, call in enumerate(CALLS)],
    ids=str,
)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def operands(form, dtype, device):
    tensors = torch.randn(SHAPE).to(device, dtype), form.raw(SHAPE, dtype, device)
    return [LAYOUT[dtype](t).detach().requires_grad_() for t in tensors]


@needs_extension
@on_calls
def test_opcheck(device, form, masked, dtype):
    mu, raw = operands(form, dtype, device)
    mask, key = mask_of(SHAPE, masked, device), key_of(3, 4, device)
    scale = form.for_operator
    opcheck(ops.reparameterize.default, (mu, raw, key), {**scale, "temperature": 0.5})
    opcheck(ops.reparameterize.generator, (mu, raw), {**scale, "num_samples": 2})
    opcheck(ops.reparameterize_with_kl.default, (mu, raw, key), {**scale, "mask": mask})
    opcheck(ops.reparameterize_with_kl.generator, (mu, raw), {**scale, "mask": mask})
    opcheck(ops.kl_divergence.default, (mu, raw, None, None, "sample"), {**scale, "mask": mask})


@needs_extension
@on_calls
def test_opcheck_of_the_backward(device, form, masked, dtype):
    mu, raw = operands(form, dtype, device)
    mask, key = mask_of(SHAPE, masked, device), key_of(3, 4, device)
    scale = form.for_operator
    # Tracing takes most of the time. The formulas of a form are the same in both operators: each is traced in one.
    untraced = partial(opcheck, test_utils=UNTRACED)
    check_sampling, check_divergence = (opcheck, untraced) if dtype == torch.bfloat16 else (untraced, opcheck)
    grad_z = torch.randn(SHAPE).to(device, dtype).requires_grad_()
    grad_kl = torch.randn(2).to(device).requires_grad_()
    check_sampling(
        ops.reparameterize_backward.default,
        (grad_z, grad_kl, mu, raw, key, None, [True, True]),
        {**scale, "mask": mask, "temperature": 0.5},
    )
    priors = [torch.randn(SHAPE).to(device, dtype).requires_grad_() for _ in range(2)]
    check_divergence(
        ops.kl_divergence_backward.default,
        (grad_kl, [True] * 4, mu, raw, *priors, "sample"),
        {**scale, "mask": mask},
    )


def everything(form, key, mask):
    def function(mu, raw):
        z, kl = vf.reparameterize_with_kl(mu, raw, key=key, mask=mask, **form.arguments)
        cool = vf.reparameterize(mu, raw, key=key, temperature=0.5, **form.arguments)
        return z, kl, cool, vf.kl_divergence(mu, raw, raw, mu, mask=mask, **form.arguments)

    return function


def results(function, tensors):
    leaves = eager.leaves(*tensors)
    outputs = function(*leaves)
    gradients = torch.autograd.grad(sum(output.square().sum() for output in outputs), leaves)
    return [*(output.detach() for output in outputs), *gradients]


@on_masks
@on_some_forms
def test_compile(device, form, masked):
    function = everything(form, key_of(3, 4, device), mask_of(SHAPE, masked, device))
    tensors = operands(form, torch.float32, device)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for plain, ours in zip(results(function, tensors), results(compiled, tensors), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)


@needs_extension
@on_some_forms
def test_one_kernel_each_way(device, form):
    tensors = operands(form, torch.float32, device)
    mask, key = mask_of(SHAPE, "bool", device), key_of(3, 4, device)

    def step():
        z, kl = vf.reparameterize_with_kl(*tensors, key=key, mask=mask, **form.arguments)
        torch.autograd.grad(z.sum() + kl.sum(), tensors)

    assert fused_operators_in(step) == {"reparameterize_with_kl": 1, "reparameterize_backward": 1}
    backend, names = recording_backend()
    torch.compile(everything(form, key, mask), fullgraph=True, backend=backend)(*(t.detach() for t in tensors))
    called = {name: count for name, count in names.items() if name.startswith("vae_fused.")}
    assert called == {
        "vae_fused.reparameterize_with_kl": 1,
        "vae_fused.reparameterize": 1,
        "vae_fused.kl_divergence": 1,
    }


def test_an_epsilon_is_a_constant_of_the_graph_and_a_mask_is_not(device):
    counter = CompileCounter()
    mu, raw = torch.randn(4, 6, device=device), torch.randn(4, 6, device=device)
    compiled = torch.compile(
        lambda m, v, mask: vf.kl_divergence(m, v, mask=mask, parameterization="softplus_std", epsilon=1e-4),
        backend=counter,
        fullgraph=True,
    )
    for _ in range(3):
        mask = torch.rand(4, 6, device=device)
        expected = vf.kl_divergence(mu, raw, mask=mask, parameterization="softplus_std", epsilon=1e-4)
        torch.testing.assert_close(compiled(mu, raw, mask), expected)
    assert counter.frame_count == 1


def test_temperatures_of_a_compiled_function(device):
    mu, logvar = torch.randn(4, 6, device=device), torch.randn(4, 6, device=device)
    key = key_of(3, 4, device)
    compiled = torch.compile(
        lambda temperature: vf.reparameterize(mu, logvar, key=key, temperature=temperature), fullgraph=True
    )
    for temperature in (1.0, 0.7, 0.5, 0.0):
        torch.testing.assert_close(
            compiled(temperature), vf.reparameterize(mu, logvar, key=key, temperature=temperature)
        )


@needs_extension
@pytest.mark.parametrize("shape", [(7, 3, 1009), (1, 4001), (40_003,)], ids=str)
@on_some_forms
def test_threads_and_runs(form, shape):
    mu, raw = torch.randn(shape), form.raw(shape, torch.float32)
    mask = torch.rand(shape)
    found = []
    for count in (1, 2, 2):
        with threads(count):
            leaves = eager.leaves(mu, raw)
            z, kl = vf.reparameterize_with_kl(*leaves, key=key_of(1), mask=mask, **form.arguments)
            divergence = vf.kl_divergence(*leaves, mask=mask, **form.arguments)
            found.append([z, kl, divergence, *torch.autograd.grad(z.sum() + kl.sum() + divergence, leaves)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_an_empty_batch(device):
    mu, raw = torch.zeros(0, 3, device=device), torch.zeros(0, 3, device=device)
    mask = torch.ones(1, 3, dtype=torch.bool, device=device)
    form = Form("softplus_std", 1e-4, CLAMP, "soft")
    z, kl = vf.reparameterize_with_kl(mu, raw, mask=mask, **form.arguments)
    assert z.shape == (0, 3)
    assert kl.shape == (0,)
    assert vf.kl_divergence(mu, raw, mask=mask, reduction="sum", **form.arguments) == 0
    assert vf.kl_divergence(mu, raw, mask=mask, reduction="mean", **form.arguments).isnan()
