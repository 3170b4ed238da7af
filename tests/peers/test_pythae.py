"""pythae's own loss against the preset of its name: same inputs, same number, same gradients."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import images, key_of, latents
from helpers.peers import need

need("pythae")

from pythae.models import VAE, BetaVAE, BetaVAEConfig, VAEConfig

import vae_fused as vf


def operands_of(dtype=torch.float64):
    recon, target = images((6, 1, 8, 8), dtype)
    return recon.sigmoid(), target, *latents((6, 5), dtype)


@pytest.mark.parametrize("recon_loss", ["mse", "bce"])
@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_loss_terms_and_gradients(beta, recon_loss):
    if beta == 1.0:
        peer = VAE(VAEConfig(input_dim=(1, 8, 8), latent_dim=5, reconstruction_loss=recon_loss))
    else:
        peer = BetaVAE(BetaVAEConfig(input_dim=(1, 8, 8), latent_dim=5, reconstruction_loss=recon_loss, beta=beta))
    ours, theirs = (eager.leaves(*o) for o in [operands_of()] * 2)
    terms = vf.FusedELBOLoss.like("pythae", recon_loss=recon_loss, beta=beta)(*ours, return_terms=True)
    loss, recon_loss, kld = peer.loss_function(*theirs, z=None)
    for value, expected in zip(terms, (loss, recon_loss, kld), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    terms.loss.backward()
    loss.backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-12)


def test_a_training_step_is_that_of_the_model(monkeypatch):
    """The whole model: its encoder, its sampling with our noise, its decoder, and either loss."""
    peer = VAE(VAEConfig(input_dim=(1, 8, 8), latent_dim=5)).double()
    x, key = torch.rand(6, 1, 8, 8, dtype=torch.float64), key_of(2)
    monkeypatch.setattr(torch, "randn_like", lambda t: vf.standard_normal(key, t.shape, dtype=t.dtype))
    output = peer({"data": x})
    output.loss.backward()
    expected = {name: weight.grad.clone() for name, weight in peer.named_parameters()}
    peer.zero_grad()

    encoded = peer.encoder(x)
    mu, logvar = encoded.embedding, encoded.log_covariance
    z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
    recon = peer.decoder(z)["reconstruction"]
    loss = vf.FusedELBOLoss.like("pythae")(recon.flatten(1), x.flatten(1), kl=kl)
    loss.backward()
    torch.testing.assert_close(z, output.z)
    torch.testing.assert_close(loss, output.loss, rtol=1e-10, atol=0)
    for name, weight in peer.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-8, atol=1e-12)
