"""How many launches the compositions take that the documentation recommends, counted without a GPU.

Every operator of this package is one launch of a CUDA kernel, but for a sigma that only some elements share, whose
gradients are summed in a second one. tests/test_cuda_emulation_access.py shows that; tests/test_gpu.py counts the
launches themselves.
"""

from __future__ import annotations

import pytest
import torch
from helpers.inputs import images, key_of, latents
from helpers.launches import launching
from helpers.output_layer import operands

import vae_fused as vf

pytestmark = pytest.mark.skipif(not vf.build_info()["extension"], reason="the reference has no operators to count")

FOUR = [
    "vae_fused::reparameterize_with_kl",
    "vae_fused::elbo_loss_with_gradients",
    "vae_fused::elbo_loss_backward_",
    "vae_fused::reparameterize_backward",
]


def step_of(device, incoming=1.0, decode=None, learned=(), **options):
    """Sampling with the KL, the loss, and the backward of both, as a decoder between them sees it."""
    recon, target = images((8, 12), device=device)
    mu, logvar = latents((8, 4), device=device)
    key = key_of(1, 0, device)
    leaves = [t.requires_grad_() for t in (recon, mu, logvar, *learned)]
    slope, grad_loss = torch.ones_like(mu), torch.full((), incoming, device=device)

    def step():
        z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
        loss = vf.elbo_loss(recon if decode is None else decode(recon), target, kl=kl, **options)
        return torch.autograd.grad((loss, z), leaves, (grad_loss, slope))

    return step


def number(value, device, dtype=torch.float32):
    return torch.tensor(value, device=device, dtype=dtype)


OPTIONS = {
    "mse": lambda device: {},
    "beta on the device": lambda device: {"beta": number(0.5, device)},
    "sum": lambda device: {"reduction": "sum"},
    "weight": lambda device: {"weight": images((8, 12), device=device)[1].abs()},
    "a weight of the term": lambda device: {"recon_weight": 0.5},
    "bce": lambda device: {"recon_loss": "bce_with_logits"},
    "sigma as a number": lambda device: {"recon_loss": "gaussian_nll", "log_sigma": -1.0},
    "log sigma of an element": lambda device: {
        "recon_loss": "laplace_nll",
        "log_sigma": images((8, 12), device=device)[0],
    },
}


@pytest.mark.parametrize("incoming", [1.0, 3.0])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_objective_is_four_launches(device, options, incoming):
    assert launching(step_of(device, incoming, **options(device))) == FOUR


@pytest.mark.parametrize("incoming", [1.0, 3.0])
@pytest.mark.parametrize("shape", [(), (1,), (12,), (8, 1), (8, 12)], ids=str)
@pytest.mark.parametrize("recon_loss", ["gaussian_nll", "laplace_nll"])
def test_a_learned_sigma_takes_no_more(device, recon_loss, shape, incoming):
    log_sigma = torch.zeros(shape, device=device)
    step = step_of(device, incoming, learned=[log_sigma], recon_loss=recon_loss, log_sigma=log_sigma)
    assert launching(step) == FOUR


@pytest.mark.parametrize("incoming", [1.0, 3.0])
def test_in_place_takes_no_more(device, incoming):
    step = step_of(device, incoming, decode=torch.neg, inplace=True)
    expected = ["vae_fused::elbo_loss_", "vae_fused::scale_gradients_"]
    found = launching(step)
    assert [name for name in found if name != "aten::neg"] == [FOUR[0], *expected, FOUR[3]]
    assert found.count("aten::neg") == 2  # the decoder, and its backward


def test_the_drop_in_takes_no_more(device):
    recon, target = images((8, 12), device=device)
    mu, logvar = latents((8, 4), device=device)
    leaves = [t.requires_grad_() for t in (recon, mu, logvar)]
    one, key = torch.ones((), device=device), key_of(1, 0, device)
    slope = torch.ones_like(mu)

    def step():
        z = vf.reparameterize(mu, logvar, key=key)
        loss = vf.elbo_loss(recon, target, mu, logvar)
        torch.autograd.grad((loss, z), leaves, (one, slope))

    # Autograd adds the two gradients of mu, and of logvar, in place where it may.
    found = [name.removesuffix("_") if name.startswith("aten") else name for name in launching(step)]
    assert sorted(found) == sorted(["vae_fused::reparameterize", *FOUR[1:], "aten::add", "aten::add"])


def test_only_the_given_kl_has_a_gradient(device):
    recon, target = images((8, 12), device=device)
    kl = torch.ones(8, device=device, requires_grad=True)
    one = torch.ones((), device=device)
    step = lambda: torch.autograd.grad(vf.elbo_loss(recon, target, kl=kl), kl, one)  # noqa: E731
    assert launching(step) == FOUR[1:3]
    assert torch.equal(step()[0], torch.full((8,), 1 / 8, device=device))


def test_the_fused_output_layer_scales_its_gradients_together(device):
    leaves = operands(device=device)
    wanted = [leaves[name] for name in ("hidden", "weight", "bias")]
    loss = vf.linear_elbo_loss(*wanted, leaves["target"].detach(), kl=torch.ones(6, device=device))
    one = torch.ones_like(loss)
    names = launching(lambda: torch.autograd.grad(loss, wanted, one))
    assert names.count("vae_fused::scale_gradients_") == 1
    assert "vae_fused::linear_reconstruction_backward" not in names
