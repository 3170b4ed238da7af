"""diffusers' autoencoders with the posterior replaced: built small, with random weights."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import pytest
import torch
from helpers.inputs import key_of
from helpers.peers import need
from torch import Tensor, nn

need("diffusers")

import diffusers
from diffusers.models.autoencoders import vae
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Original

import vae_fused as vf
from vae_fused.integrations import diffusers as integration


def _image() -> tuple[nn.Module, Tensor]:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    model = diffusers.AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **blocks)
    return model, torch.randn(2, 3, 16, 16)


def _cogvideox() -> tuple[nn.Module, Tensor]:
    blocks = {"down_block_types": ("CogVideoXDownBlock3D",) * 2, "up_block_types": ("CogVideoXUpBlock3D",) * 2}
    model = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, layers_per_block=1, **blocks
    )
    return model, torch.randn(2, 3, 9, 8, 8)


def _wan() -> tuple[nn.Module, Tensor]:
    model = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    return model, torch.randn(2, 3, 5, 8, 8)


def _audio() -> tuple[nn.Module, Tensor]:
    if not hasattr(diffusers, "AutoencoderKLKVAEAudio"):
        pytest.skip("this version of diffusers has no AutoencoderKLKVAEAudio")
    model = diffusers.AutoencoderKLKVAEAudio(
        encoder_dim=4, encoder_rates=[2, 2], latent_dim=16, codebook_dim=4, decoder_dim=16, decoder_rates=[2, 2],
        attn_num_heads=2,
    )  # fmt: skip
    return model, torch.randn(2, 1, 64)


AUTOENCODERS = {"KL": _image, "CogVideoX": _cogvideox, "Wan": _wan, "KVAEAudio": _audio}
on_autoencoders = pytest.mark.parametrize("build", AUTOENCODERS.values(), ids=AUTOENCODERS)


@pytest.fixture(autouse=True)
def unpatched():
    yield
    integration.unpatch()


def step(model: nn.Module, x: Tensor, sample: Callable[[Original], Tensor], kl: Callable[[Original], Tensor]):
    """Encode, sample, decode, loss and backward: the loss, the divergence and the gradient of every weight."""
    posterior = model.encode(x).latent_dist
    recon = model.decode(sample(posterior)).sample
    divergence = kl(posterior)
    loss = vf.elbo_loss(recon, x, kl=divergence, beta=0.1)
    model.zero_grad()
    loss.backward()
    return posterior, loss.detach(), divergence.detach(), {n: p.grad for n, p in model.named_parameters()}


@on_autoencoders
def test_a_training_step_is_that_of_the_original(build, monkeypatch):
    model, x = build()
    model, x = model.double(), x.double()  # so that the gradients of what cancels can be compared
    key = key_of(11)
    monkeypatch.setattr(vae, "randn_tensor", lambda shape, dtype, **_: vf.standard_normal(key, shape, dtype=dtype))

    def total_kl(q: Original) -> Tensor:  # the peer's own, and summed over what it leaves out
        elements = 0.5 * (q.mean.pow(2) + q.var - 1.0 - q.logvar)
        return q.kl() if elements.dim() == 4 else elements.flatten(1).sum(1)

    theirs, expected_loss, expected_kl, expected = step(model, x, lambda q: q.sample(), total_kl)
    with vf.integrations.diffusers.patch():
        ours, loss, kl, gradient = step(model, x, lambda q: q.sample(key=key), lambda q: q.kl())

    assert (type(theirs), type(ours)) == (Original, integration.DiagonalGaussianDistribution)
    for name in ("mean", "logvar", "std", "var"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(kl, expected_kl, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    size = max(float(value.abs().max()) for value in expected.values() if value is not None)
    for name, value in expected.items():
        if value is None:  # a weight that this configuration does not use
            assert gradient[name] is None, name
        else:
            torch.testing.assert_close(gradient[name], value, rtol=1e-8, atol=1e-10 * size)


@on_autoencoders
def test_forward_takes_generators(build):
    model, x = build()
    with integration.patch(), torch.no_grad():
        first, again = (
            model(x, sample_posterior=True, generator=torch.Generator().manual_seed(4)).sample for _ in range(2)
        )
        other = model(x, sample_posterior=True, generator=torch.Generator().manual_seed(5)).sample
        z = model.encode(x).latent_dist.sample([torch.Generator().manual_seed(s) for s in (1, 2)])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(z) == len(x)


def posterior_class(model: nn.Module, x: Tensor) -> type:
    with torch.no_grad():
        return type(model.encode(x).latent_dist)


def test_patch_for_a_block_and_for_good():
    model, x = _image()
    fused = integration.DiagonalGaussianDistribution
    assert posterior_class(model, x) is Original
    with integration.patch():
        assert posterior_class(model, x) is fused
        with integration.patch():
            assert posterior_class(model, x) is fused
        assert posterior_class(model, x) is fused
        assert integration.is_patched()
    assert posterior_class(model, x) is Original
    integration.patch()
    with integration.patch():
        pass
    assert posterior_class(model, x) is fused
    integration.unpatch()
    assert posterior_class(model, x) is Original
    assert not integration.is_patched()
    integration.unpatch()  # without effect
    with integration.patch():
        integration.unpatch()  # inside a block
        assert posterior_class(model, x) is Original
    assert not integration.is_patched()
    integration.patch()
    assert integration.is_patched()


def test_block_that_raises_is_taken_back():
    with pytest.raises(RuntimeError, match="mine"), integration.patch():
        raise RuntimeError("mine")
    assert vae.DiagonalGaussianDistribution is Original


def test_modules_imported_later_are_patched_and_taken_back(monkeypatch):
    name = "diffusers.models.autoencoders.autoencoder_kl_mochi"
    importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    integration.patch()
    module = importlib.import_module(name)
    assert module.DiagonalGaussianDistribution is integration.DiagonalGaussianDistribution
    integration.unpatch()
    assert module.DiagonalGaussianDistribution is Original


def test_oobleck_stays_as_it_is():
    """Its posterior has a softplus scale and a class of its own, which is not replaced."""
    model = diffusers.AutoencoderOobleck(
        encoder_hidden_size=8, downsampling_ratios=[2, 4], channel_multiples=[1, 2], decoder_channels=8,
        decoder_input_channels=4, audio_channels=1,
    )  # fmt: skip
    with integration.patch(), torch.no_grad():
        posterior = model.encode(torch.randn(2, 1, 64)).latent_dist
        assert type(posterior).__name__ == "OobleckDiagonalGaussianDistribution"
        assert model.decode(posterior.sample()).sample.shape == (2, 1, 64)
