"""beta as a number and as a tensor, with and without a gradient."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import images, latents
from helpers.tolerances import DTYPES

import vae_fused as vf


def inputs(device):
    return (*images((4, 3, 5), torch.float32, device), *latents((4, 6), torch.float32, device))


@pytest.mark.parametrize("reduction", eager.REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("where", ["cpu", "device"])
def test_tensor_beta_weighs_as_the_number_does(device, dtype, reduction, where):
    operands = inputs(device)
    beta = torch.tensor(0.375, dtype=dtype, device="cpu" if where == "cpu" else device)
    expected = vf.elbo_loss(*operands, beta=0.375, reduction=reduction)
    assert torch.equal(vf.elbo_loss(*operands, beta=beta, reduction=reduction), expected)


@pytest.mark.parametrize("beta", [0, 1, 4, 0.0, -1.0, 1e-3])
def test_numbers(device, beta):
    operands = inputs(device)
    terms = vf.elbo_loss(*operands, beta=beta, return_terms=True)
    assert terms.loss.item() == pytest.approx(terms.reconstruction.item() + beta * terms.kl.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("reduction", "given_kl"),
    [(r, given) for r in eager.REDUCTIONS for given in (False, True) if not (given and r == "mean")],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_of_beta_is_the_kl_term(device, dtype, reduction, given_kl):
    recon, target, mu, logvar = inputs(device)
    beta = torch.tensor(0.5, dtype=dtype, device=device, requires_grad=True)
    source = {"kl": vf.kl_divergence(mu, logvar, reduction="sample")} if given_kl else {"mu": mu, "logvar": logvar}
    loss, _, kl = vf.elbo_loss(recon, target, **source, beta=beta, reduction=reduction, return_terms=True)
    weights = torch.linspace(1, 2, loss.numel(), device=device).view(loss.shape)
    (gradient,) = torch.autograd.grad((loss * weights).sum(), beta)
    assert gradient.dtype == dtype
    assert gradient.shape == ()
    expected = (kl * weights).sum().double()
    torch.testing.assert_close(gradient.double(), expected, rtol=max(1e-6, torch.finfo(dtype).eps), atol=0)


def test_gradient_of_beta_sums_a_half_precision_kl_in_float32(device):
    kl = torch.full((4,), 30000.0, dtype=torch.float16, device=device)
    recon, target = images((4, 3), torch.float32, device)
    beta = torch.tensor(1.0, device=device, requires_grad=True)
    vf.elbo_loss(recon, target, kl=kl, beta=beta, reduction="sum").backward()
    assert beta.grad.item() == pytest.approx(120000.0, rel=1e-3)


def test_beta_is_read_when_the_loss_is_computed(device):
    operands = inputs(device)
    beta = torch.tensor(1.0, device=device)
    first = vf.elbo_loss(*operands, beta=beta)
    beta.fill_(2.0)
    second = vf.elbo_loss(*operands, beta=beta)
    assert torch.equal(first, vf.elbo_loss(*operands, beta=1.0))
    assert torch.equal(second, vf.elbo_loss(*operands, beta=2.0))
