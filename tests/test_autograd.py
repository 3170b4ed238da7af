"""Autograd as PyTorch's own losses do it: who gets a gradient, for which incoming gradient, and to which order."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import images, key_of, latents

import vae_fused as vf

F32, F64 = torch.float32, torch.float64
NAMES = ("recon", "target", "mu", "logvar")


def operands_of(device, dtype=F64):
    return (*images((4, 3, 5), dtype, device), *latents((4, 6), dtype, device))


def close(actual, expected, tolerance=1e-12):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_target_gets_its_gradient_as_in_mse_loss(device):
    recon, target, mu, logvar = operands_of(device)
    ours, theirs = eager.leaves(recon, target), eager.leaves(recon, target)
    vf.elbo_loss(*ours, mu, logvar, reduction="mean").backward()
    torch.nn.functional.mse_loss(*theirs).backward()
    close([t.grad for t in ours], [t.grad for t in theirs])


@pytest.mark.parametrize("wanted", [*NAMES, ("target", "mu"), ("recon", "logvar"), ("target", "recon")], ids=str)
@pytest.mark.parametrize("reduction", ["batchmean", "sample"])
def test_frozen_inputs_get_none(device, wanted, reduction):
    operands = [t.clone().requires_grad_(n in wanted) for n, t in zip(NAMES, operands_of(device), strict=True)]
    vf.elbo_loss(*operands, reduction=reduction).sum().backward()
    leaves = eager.leaves(*operands)
    expected = torch.autograd.grad(eager.elbo_terms(*leaves, reduction=reduction)[0].sum(), leaves)
    for name, operand, gradient in zip(NAMES, operands, expected, strict=True):
        if name in wanted:
            close([operand.grad], [gradient])
        else:
            assert operand.grad is None


def test_frozen_latents_get_none(device):
    mu, logvar = latents((4, 6), F64, device)
    mu.requires_grad_()
    z, kl = vf.reparameterize_with_kl(mu, logvar)
    (z.sum() + kl.sum() + vf.kl_divergence(mu, logvar, logvar)).backward()
    assert logvar.grad is None
    close([mu.grad], [1 + mu.detach() + (mu.detach() - logvar) / 4])


INCOMING = {
    "sum": lambda loss: loss.sum(),
    "times 3": lambda loss: 3 * loss.sum(),
    "mean": lambda loss: loss.mean(),
    "times 0": lambda loss: 0 * loss.sum(),
    "expanded": lambda loss: loss.expand(2, *loss.shape).sum(),
    "divided": lambda loss: loss.sum() / 7,
    "squared": lambda loss: loss.pow(2).sum(),
}


@pytest.mark.parametrize("incoming", INCOMING)
@pytest.mark.parametrize("reduction", eager.REDUCTIONS)
def test_incoming_gradient(device, reduction, incoming):
    ours, theirs = (eager.leaves(*operands) for operands in [operands_of(device)] * 2)
    INCOMING[incoming](vf.elbo_loss(*ours, beta=0.5, reduction=reduction)).backward()
    INCOMING[incoming](eager.elbo_terms(*theirs, beta=0.5, reduction=reduction)[0]).backward()
    close([t.grad for t in ours], [t.grad for t in theirs])


@pytest.mark.parametrize("stride", ["expanded", "reversed by flip", "every second"])
def test_incoming_gradient_per_item_at_any_stride(device, stride):
    gradient = torch.rand(8, dtype=F64).to(device)
    gradient = {
        "expanded": gradient[:1].expand(4),
        "reversed by flip": gradient[:4].flip(0),
        "every second": gradient[::2],
    }[stride]
    recon, target, mu, logvar = operands_of(device)
    key = key_of(1, 1, device)
    functions = {
        "elbo": lambda m, v: vf.elbo_loss(recon, target, m, v, reduction="sample"),
        "kl": lambda m, v: vf.kl_divergence(m, v, reduction="sample"),
        "with_kl": lambda m, v: vf.reparameterize_with_kl(m, v, key=key)[1],
    }
    for function in functions.values():
        leaves, theirs = eager.leaves(mu, logvar), eager.leaves(mu, logvar)
        expected = torch.autograd.grad(eager.kl_divergence(*theirs, reduction="sample"), theirs, gradient)
        close(torch.autograd.grad(function(*leaves), leaves, gradient), expected)


def test_loss_scale_of_float16_training(device):
    # GradScaler multiplies the loss by 65536 so that small gradients survive float16: they must not underflow before.
    target = torch.rand(4, 300, dtype=torch.float16).to(device)
    recon = (target + 2.0**-11 * torch.randn(4, 300).to(device)).half()
    mu, logvar = (1e-4 * t for t in latents((4, 6), torch.float16, device))
    operands = (recon, target, mu, logvar)
    leaves, truth = eager.leaves(*operands), eager.leaves(*operands, dtype=F64)
    (65536.0 * vf.elbo_loss(*leaves, reduction="mean")).backward()
    (65536.0 * eager.elbo_terms(*truth, reduction="mean")[0]).backward()
    for ours, true in zip(leaves, truth, strict=True):
        torch.testing.assert_close(ours.grad.double(), true.grad, rtol=2.0**-11, atol=2.0**-24)


def test_terms_are_values_only(device):
    terms = vf.elbo_loss(*eager.leaves(*operands_of(device)), return_terms=True)
    assert terms.loss.requires_grad
    assert not terms.reconstruction.requires_grad
    assert not terms.kl.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(device, mode):
    operands = eager.leaves(*operands_of(device))
    mu, logvar = operands[2:]
    key = key_of(1, 1, device)
    with mode():
        results = [
            vf.elbo_loss(*operands),
            vf.kl_divergence(mu, logvar),
            vf.reparameterize(mu, logvar, key=key),
            *vf.reparameterize_with_kl(mu, logvar, key=key),
            vf.reparameterize(mu, logvar, generator=torch.Generator(device)),
        ]
    assert not any(result.requires_grad for result in results)
    with_graph = [vf.elbo_loss(*operands), vf.kl_divergence(mu, logvar), vf.reparameterize(mu, logvar, key=key)]
    for a, b in zip(results, with_graph, strict=False):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reduction", eager.REDUCTIONS)
def test_second_derivatives(device, reduction):
    operands = operands_of(device)
    directions = [torch.randn_like(t) for t in operands]

    def second(function):
        leaves = eager.leaves(*operands)
        loss = function(*leaves).pow(2).sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        along = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
        return [g.detach() for g in first], torch.autograd.grad(along, leaves)

    ours = second(lambda *o: vf.elbo_loss(*o, beta=0.3, reduction=reduction))
    theirs = second(lambda *o: eager.elbo_terms(*o, beta=0.3, reduction=reduction)[0])
    close(ours[0], theirs[0], 1e-11)
    close(ours[1], theirs[1], 1e-11)


def test_create_graph_gives_the_same_first_gradients(device):
    operands = operands_of(device, F32)
    plain = torch.autograd.grad(vf.elbo_loss(*(a := eager.leaves(*operands))), a)
    graphed = torch.autograd.grad(vf.elbo_loss(*(a := eager.leaves(*operands))), a, create_graph=True)
    close(plain, [g.detach() for g in graphed], 1e-6)


IN_PLACE = {
    "elbo_loss": lambda r, m, v: vf.elbo_loss(r, r.detach() + 1, m, v),
    "elbo_loss per item": lambda r, m, v: vf.elbo_loss(r, r.detach() + 1, m, v, reduction="sample").sum(),
    "kl_divergence": lambda r, m, v: vf.kl_divergence(m, v),
    "with_kl": lambda r, m, v: vf.reparameterize_with_kl(m, v)[1].sum(),
    "reparameterize": lambda r, m, v: vf.reparameterize(m, v).sum(),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_inputs_changed_in_place_before_the_backward_are_refused(device, name):
    recon, _, mu, logvar = (t * 1.0 for t in eager.leaves(*operands_of(device)))
    loss = IN_PLACE[name](recon, mu, logvar)
    (recon if "elbo" in name else logvar).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
