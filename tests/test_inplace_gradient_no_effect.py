"""The gradient of the reconstruction in its own memory: a permission that changes nothing where it has no use."""

from __future__ import annotations

import pytest
import torch
from helpers.inplace import gradients_of, operands_of, produced
from helpers.operators import fused_operators_in

import vae_fused as vf

pytestmark = pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")


def assert_untouched(recon, function):
    copy, version = recon.detach().clone(), recon._version
    names = fused_operators_in(function)
    assert "elbo_loss_" not in names
    result = function()
    assert torch.equal(recon.detach(), copy)
    assert recon._version == version
    return result


def test_no_effect_without_a_gradient(device):
    x, target, mu, logvar = operands_of(device)
    recon = produced(x)
    with torch.no_grad():
        assert_untouched(recon, lambda: vf.elbo_loss(recon, target, mu, logvar, inplace=True))
    with torch.inference_mode():
        assert_untouched(recon, lambda: vf.elbo_loss(recon, target, mu, logvar, inplace=True))
    fixed = x.detach()
    loss = assert_untouched(fixed, lambda: vf.elbo_loss(fixed, target, mu, logvar, inplace=True))
    for _ in range(2):  # the ordinary loss: any number of backwards
        loss.backward(retain_graph=True)


def test_no_effect_in_transforms(device):
    x, target, mu, logvar = (t.detach() for t in operands_of(device))
    expected = torch.func.grad(lambda x: vf.elbo_loss(x, target, mu, logvar))(x)

    def inplace(x):
        recon = produced(x)
        loss = vf.elbo_loss(recon, target, mu, logvar, inplace=True)
        return loss, recon

    gradient, recon = torch.func.grad(inplace, has_aux=True)(x)
    assert torch.equal(gradient, expected)
    assert torch.equal(recon, x)


def test_no_effect_in_dispatch_modes(device):
    x, target, mu, logvar = operands_of(device)
    names = fused_operators_in(lambda: vf.elbo_loss(produced(x), target, mu, logvar, inplace=True).backward())
    assert set(names) == {"elbo_loss", "elbo_loss_backward"}


def test_no_effect_on_subclasses(device):
    class Named(torch.Tensor):
        pass

    x, target, mu, logvar = operands_of(device)
    recon = produced(x).as_subclass(Named)
    assert_untouched(recon, lambda: vf.elbo_loss(recon, target, mu, logvar, inplace=True))


def test_no_effect_in_a_compiled_graph(device):
    x, target, mu, logvar = operands_of(device)
    expected = gradients_of((x, mu, logvar), vf.elbo_loss(x, target, mu, logvar))

    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(x, mu, logvar):
        recon = produced(x)
        return vf.elbo_loss(recon, target, mu, logvar, inplace=True), recon

    loss, recon = step(x, mu, logvar)
    assert torch.equal(recon, x)
    for _ in range(2):
        gradients = torch.autograd.grad(loss, (x, mu, logvar), retain_graph=True)
        for gradient, true in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, true, rtol=1e-12, atol=1e-14)
