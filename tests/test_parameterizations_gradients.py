"""First and second derivatives of every form by finite differences, where the clamp has them, else by autograd."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import key_of, keys_of
from helpers.posteriors import Form, mask_of, on_forms, on_masks, on_some_forms
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacrev, jvp, vmap

import vae_fused as vf

F64 = torch.float64
SHAPE = (2, 3)


def operands(form, device, shape=SHAPE):
    return torch.randn(shape, dtype=F64).to(device), form.raw(shape, F64, device)


def sample(form, key, **arguments):
    return lambda m, v: vf.reparameterize(m, v, key=key, **form.arguments, **arguments)


def check(function, plain, form, tensors):
    """Finite differences see the value alone, which straight-through clamps change and whose gradient they do not."""
    leaves = eager.leaves(*tensors)
    if form.clamp != "straight_through":
        assert gradcheck(function, leaves)
        assert gradgradcheck(function, leaves)
    results = []
    for called in (function, plain):
        value = called(*leaves)
        first = torch.autograd.grad(value.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.cos().sum() for g in first), leaves, materialize_grads=True)
        results.append([*first, *second])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("num_samples", [None, 2])
@on_forms
def test_sample(device, form, num_samples):
    key = keys_of([3, 4], device)
    noise = vf.reparameterize(*[torch.zeros(SHAPE, dtype=F64, device=device)] * 2, key=key, num_samples=num_samples)
    check(
        sample(form, key, num_samples=num_samples, temperature=0.6),
        lambda m, v: form.sample(m, v, noise, 0.6),
        form,
        operands(form, device),
    )


@pytest.mark.parametrize("reduction", ["sample", "none"])
@on_forms
def test_divergence(device, form, reduction):
    mask = mask_of(SHAPE, "weights", device).double()
    check(
        lambda m, v: vf.kl_divergence(m, v, mask=mask, reduction=reduction, **form.arguments),
        lambda m, v: form.kl(m, v, mask=mask, reduction=reduction),
        form,
        operands(form, device),
    )


@on_some_forms
def test_divergence_from_a_given_prior(device, form):
    priors = (torch.randn(3, dtype=F64).to(device), torch.randn(SHAPE, dtype=F64).to(device))
    check(
        lambda *t: vf.kl_divergence(*t, reduction="sample", **form.arguments),
        lambda *t: form.kl(*t, reduction="sample"),
        form,
        (*operands(form, device), *priors),
    )


@on_masks
@on_some_forms
def test_both_in_one(device, form, masked):
    key, mask = key_of(3, 1, device), mask_of(SHAPE, masked, device)
    noise = vf.standard_normal(key, SHAPE, dtype=F64)
    weights = None if mask is None else mask.double()

    def ours(m, v):
        z, kl = vf.reparameterize_with_kl(m, v, key=key, mask=mask, **form.arguments)
        return z.flatten(1).sum(1) * kl

    def plain(m, v):
        return form.sample(m, v, noise).flatten(1).sum(1) * form.kl(m, v, mask=weights, reduction="sample")

    check(ours, plain, form, operands(form, device))


@pytest.mark.parametrize("clamp", ["hard", "straight_through"])
@pytest.mark.parametrize("parameterization", ["logvar", "log_std", "std", "softplus_var"])
@pytest.mark.parametrize("api", [vf, vf.reference], ids=["kernel", "reference"])
def test_gradient_of_a_clamp_beyond_its_bounds(api, device, parameterization, clamp):
    form = Form(parameterization, 0.0, (-0.5, 0.5), clamp)
    raw = (torch.tensor([[0.2, 1.0, 5.0]]) if form.of_positive else torch.tensor([[-3.0, 0.0, 3.0]])).to(device)
    if parameterization == "softplus_var":
        raw[0, 1] = 0.5413  # a variance of 1
    raw.requires_grad_()
    (gradient,) = torch.autograd.grad(api.reparameterize(raw.detach(), raw, key=key_of(1), **form.arguments).sum(), raw)
    outside = torch.tensor([[True, False, True]], device=device)
    assert torch.equal(gradient == 0, outside if clamp == "hard" else torch.zeros_like(outside))


def test_a_bound_passes_the_gradient(device):
    raw = torch.tensor([[-0.5, 0.5]], dtype=F64, device=device, requires_grad=True)
    for parameterization in ("logvar", "exp_var"):
        kl = vf.kl_divergence(raw.detach(), raw, parameterization=parameterization, logvar_clamp=(-0.5, 0.5))
        (gradient,) = torch.autograd.grad(kl, raw)
        assert (gradient != 0).all()


def everything(form, key, mask):
    def function(mu, raw):
        z, kl = vf.reparameterize_with_kl(mu, raw, key=key, mask=mask, **form.arguments)
        cool = vf.reparameterize(mu, raw, key=key, temperature=0.5, num_samples=2, **form.arguments)
        divergence = vf.kl_divergence(mu, raw, raw, mu, mask=mask, reduction="mean", **form.arguments)
        return z.square().sum() + kl.square().sum() + cool.square().sum() + divergence

    return function


@on_masks
@on_some_forms
def test_inside_transforms(device, form, masked):
    function = everything(form, key_of(3, 1, device), mask_of((2, 3), masked, device))
    mu, raw = operands(form, device, (2, 3))
    leaves = eager.leaves(mu, raw)
    expected = torch.autograd.grad(function(*leaves), leaves)
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)  # noqa: E731
    for ours, true in zip(grad(function, argnums=(0, 1))(mu, raw), expected, strict=True):
        close(ours, true)
    value, tangent = jvp(function, (mu, raw), (raw, mu))
    close(value, function(mu, raw))
    close(tangent, (expected[0] * raw + expected[1] * mu).sum())
    of_raw = torch.autograd.functional.hessian(lambda v: function(mu, v), raw)
    close(hessian(lambda v: function(mu, v))(raw), of_raw)
    close(jacrev(lambda v: function(mu, v))(raw), expected[1])
    many = torch.stack([raw, raw + 0.25])
    close(vmap(lambda v: function(mu, v))(many), torch.stack([function(mu, v) for v in many]))
