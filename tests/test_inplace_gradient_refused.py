"""The gradient of the reconstruction in its own memory: every way in which it must be refused."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.inplace import SHAPE, operands_of, produced
from helpers.inputs import key_of
from torch.utils.checkpoint import checkpoint

import vae_fused as vf
from vae_fused._library import ops

pytestmark = pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")

LEAF = "recon is a leaf that requires a gradient"


def refused(recon, target, mu, logvar, error, message, **options):
    """The error comes before anything has changed."""
    copy, version = recon.detach().clone(), recon._version
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        vf.elbo_loss(recon, target, mu, logvar, inplace=True, **options)
    assert torch.equal(recon.detach(), copy)
    assert recon._version == version


def test_leaf(device):
    x, target, mu, logvar = operands_of(device)
    refused(x, target, mu, logvar, ValueError, f"{LEAF}, inplace=True would overwrite it")
    refused(x.view(4, 15), target.view(4, 15), mu, logvar, ValueError, f"{LEAF}, or a view of one, inplace=True")


def test_target_that_requires_a_gradient(device):
    x, target, mu, logvar = operands_of(device)
    refused(produced(x), target.requires_grad_(), mu, logvar, ValueError, "target must not require a gradient with")


def test_expanded(device):
    x, target, mu, logvar = operands_of(device)
    message = "recon has elements that share memory (is it expanded?), inplace=True would overwrite them"
    for recon in (produced(x)[:1].expand(SHAPE), produced(x)[..., :1].expand(SHAPE)):
        refused(recon, target, mu, logvar, ValueError, message)
    overlapping = produced(x.flatten()).as_strided(SHAPE, (4, 2, 1))
    refused(overlapping, target, mu, logvar, ValueError, message)


def test_shared_memory(device):
    x, _, mu, logvar = operands_of(device)
    recon = produced(x)
    refused(recon, recon.detach(), mu, logvar, ValueError, "recon shares memory with target, inplace=True would")
    pair = torch.cat([x, x])
    refused(pair[:4], pair.detach()[2:6], mu, logvar, ValueError, "recon shares memory with target, inplace=True")
    apart = torch.cat([x, x])
    vf.elbo_loss(apart[:4], apart.detach()[4:], mu, logvar, inplace=True)
    latent = produced(x)
    refused(latent, x.detach(), mu=latent, logvar=x, error=ValueError, message="recon shares memory with mu, inplace")
    refused(latent, x.detach(), mu=x, logvar=latent, error=ValueError, message="recon shares memory with logvar, in")
    column = torch.rand(4, 1, device=device, requires_grad=True).add(0.0)
    zero = torch.zeros(4, 1, device=device)
    refused(column, zero, None, None, ValueError, "recon shares memory with kl, inplace", kl=column[:, 0])
    refused(column, zero, zero, zero, ValueError, "recon shares memory with beta, inplace", beta=column[0, 0])


@pytest.mark.parametrize("api", [vf, vf.reference], ids=["kernel", "reference"])
def test_arguments(device, api):
    x, target, mu, logvar = operands_of(device)
    message = "^reduction must not be sample with inplace=True: each item has an incoming gradient of its own, which is"
    with pytest.raises(ValueError, match=message):
        api.elbo_loss(produced(x), target, mu, logvar, reduction="sample", inplace=True)
    with pytest.raises(TypeError, match=r"^inplace must be a bool, got int$"):
        api.elbo_loss(produced(x), target, mu, logvar, inplace=1)
    api.elbo_loss(produced(x), target, mu, logvar, reduction="sample", inplace=False)
    with pytest.raises(ValueError, match=message):
        ops.elbo_loss_.default(
            (False,) * 4, x.detach(), target, mu.detach(), logvar.detach(), None, 1.0, None, "mse", "sample"
        )


def test_module():
    with pytest.raises(ValueError, match=r"^reduction must not be sample with inplace=True"):
        vf.FusedELBOLoss(reduction="sample", inplace=True)
    with pytest.raises(TypeError, match=r"^inplace must be a bool, got str$"):
        vf.FusedELBOLoss(inplace="yes")
    assert repr(vf.FusedELBOLoss(inplace=True)).endswith("reduction='batchmean', inplace=True)")
    assert "inplace" not in repr(vf.FusedELBOLoss())
    with pytest.raises(TypeError, match="positional"):
        vf.FusedELBOLoss(1.0, "mse", "batchmean", True)


def test_second_backward(device):
    x, target, mu, logvar = operands_of(device)
    loss = vf.elbo_loss(produced(x), target, mu, logvar, inplace=True)
    loss.backward(retain_graph=True)
    given = x.grad.clone()
    with pytest.raises(RuntimeError, match=r"given away by an earlier backward.*inplace=False"):
        loss.backward()
    assert torch.equal(x.grad, given)


def test_second_derivatives(device):
    x, target, mu, logvar = operands_of(device)
    loss = vf.elbo_loss(produced(x), target, mu, logvar, inplace=True)
    with pytest.raises(RuntimeError, match=r"inplace=True is differentiable once.*inplace=False for create_graph=True"):
        torch.autograd.grad(loss, (x, mu), create_graph=True)


def test_batch_of_incoming_gradients(device):
    x, target, mu, logvar = operands_of(device)
    loss = vf.elbo_loss(produced(x), target, mu, logvar, inplace=True)
    with pytest.raises(RuntimeError, match="inplace=True is differentiable once"):
        torch.autograd.grad(loss, x, torch.ones(3, dtype=loss.dtype, device=device), is_grads_batched=True)


def test_layer_that_saved_its_output(device):
    x, target, mu, logvar = operands_of(device)
    loss = vf.elbo_loss(torch.sigmoid(x), target, mu, logvar, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_earlier_use_that_saved_it(device):
    x, target, mu, logvar = operands_of(device)
    recon = produced(x)
    penalty = recon.square().sum()
    loss = vf.elbo_loss(recon.view(4, 15), target.view(4, 15), mu, logvar, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (loss + penalty).backward()


def test_recon_modified_after_the_call(device):
    x, target, mu, logvar = operands_of(device)
    recon = produced(x)
    loss = vf.elbo_loss(recon, target, mu, logvar, inplace=True)
    recon.detach().clamp_(0, 1)
    with pytest.raises(RuntimeError, match="recon was modified by an inplace operation after elbo_loss"):
        loss.backward()


def test_two_losses_of_one_recon(device):
    x, target, mu, logvar = operands_of(device)
    recon = produced(x)
    first = vf.elbo_loss(recon, target, mu, logvar, inplace=True)
    second = vf.elbo_loss(recon, target, mu, logvar, inplace=True)
    with pytest.raises(RuntimeError, match="recon was modified by an inplace operation after elbo_loss"):
        (first + second).backward()


def test_checkpointing_the_loss_alone(device):
    # Recomputed for the sake of what it saved, the loss would read its own gradient as the reconstruction.
    x, target, mu, logvar = operands_of(device)
    kl = vf.reparameterize_with_kl(mu, logvar, key=key_of(1, 2, device))[1]
    beta = torch.tensor(0.5, device=device)  # is saved
    for by_argument in (True, False):  # of the first autograd itself knows, of the second the objective
        recon = produced(x)

        def loss_of(given, recon=None if by_argument else recon):
            return vf.elbo_loss(given if recon is None else recon, target, kl=kl, beta=beta, inplace=True)

        loss = checkpoint(loss_of, recon if by_argument else kl, use_reentrant=False)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward(retain_graph=True)
