"""The posterior against diffusers' own class: same moments, same noise, same values and gradients."""

from __future__ import annotations

import pytest
import torch
from helpers.inputs import key_of
from helpers.peers import need

need("diffusers")

from diffusers.models.autoencoders import autoencoder_oobleck, vae
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Original

import vae_fused as vf
from vae_fused.integrations.diffusers import DiagonalGaussianDistribution as Fused

IMAGE, AUDIO, VIDEO = (3, 8, 6, 5), (3, 8, 7), (3, 8, 4, 6, 5)
ranks = pytest.mark.parametrize("shape", [IMAGE, AUDIO, VIDEO], ids=["image", "audio", "video"])


def moments_of(shape: tuple[int, ...]) -> torch.Tensor:
    """Log-variances on both sides of the clamp, and means around 1."""
    moments = torch.randn(shape)
    moments[:, shape[1] // 2 :] *= 3.0
    moments[0, -1], moments[1, -1] = 25.0, -35.0
    return moments.requires_grad_()


def gradients(value: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, moments, torch.ones_like(value), retain_graph=True)[0]


def with_noise(monkeypatch: pytest.MonkeyPatch, noise: torch.Tensor) -> None:
    monkeypatch.setattr(vae, "randn_tensor", lambda shape, **_: noise.view(shape))


@ranks
def test_statistics(shape):
    moments = moments_of(shape)
    ours, theirs = Fused(moments), Original(moments)
    for name in ("mean", "logvar", "std", "var"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert torch.equal(gradients(getattr(ours, name), moments), gradients(getattr(theirs, name), moments)), name
    assert torch.equal(ours.mode(), theirs.mode())
    assert ours.parameters is moments
    assert isinstance(ours, Original)


@ranks
def test_sample_of_the_same_noise(shape, monkeypatch):
    moments, key = moments_of(shape), key_of(3)
    theirs = Original(moments)
    with_noise(monkeypatch, vf.standard_normal(key, theirs.mean.shape))
    ours, expected = Fused(moments).sample(key=key), theirs.sample()
    torch.testing.assert_close(ours, expected, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(gradients(ours, moments), gradients(expected, moments), rtol=2e-6, atol=2e-6)


def test_kl_and_nll_of_images():
    moments, x = moments_of(IMAGE), torch.randn(3, 4, 6, 5)
    ours, theirs = Fused(moments), Original(moments)
    other = moments_of(IMAGE).detach()[:, :, :1]  # a prior that is shared by the rows
    for value, expected in (
        (ours.kl(), theirs.kl()),
        (ours.kl(Fused(other)), theirs.kl(Original(other))),
        (ours.kl(Original(other)), theirs.kl(Original(other))),
        (ours.nll(x), theirs.nll(x)),
        (ours.nll(x, dims=[1, 2]), theirs.nll(x, dims=[1, 2])),
    ):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(gradients(value, moments), gradients(expected, moments), rtol=2e-6, atol=1e-6)


def test_kl_of_video_keeps_a_dimension_there_and_is_one_number_an_item_here():
    """The peer sums over dimensions 1, 2 and 3 of five; what it leaves is the width."""
    moments = moments_of(VIDEO)
    theirs, ours = Original(moments).kl(), Fused(moments).kl()
    assert theirs.shape == (3, 5)
    assert ours.shape == (3,)
    torch.testing.assert_close(ours, theirs.sum(1), rtol=1e-6, atol=0)
    x = torch.randn(3, 4, 4, 6, 5)
    torch.testing.assert_close(Fused(moments).nll(x), Original(moments).nll(x).sum(1), rtol=1e-6, atol=0)
    # Its users take the mean of what it gives: the divergence divided by the width.
    torch.testing.assert_close(theirs.mean() * 5, ours.mean(), rtol=1e-6, atol=0)


def test_kl_of_audio_is_an_error_there_and_right_here():
    moments = moments_of(AUDIO)
    with pytest.raises(IndexError):
        Original(moments).kl()
    mean, logvar = moments.double().chunk(2, dim=1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, torch.exp(0.5 * logvar.clamp(-30, 20))), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(Fused(moments).kl().double(), expected.sum([1, 2]), rtol=1e-6, atol=0)


def test_kl_in_half_precision_overflows_there_and_not_here():
    moments = torch.full((1, 8, 64, 64), 3.0, dtype=torch.float16)
    mean, logvar = moments.double().chunk(2, dim=1)
    expected = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum([1, 2, 3])
    assert Original(moments).kl().isinf().all()
    torch.testing.assert_close(Fused(moments).kl().double(), expected, rtol=1e-6, atol=0)


@ranks
def test_generators(shape):
    """An item has the noise of its own generator, in any batch; the peer's meaning of a list of generators."""
    moments = moments_of(shape).detach()
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]
    together = Fused(moments).sample(generators)
    for index, seed in enumerate((5, 6, 7)):
        alone = Fused(moments[index : index + 1]).sample(torch.Generator().manual_seed(seed))
        assert torch.equal(alone[0], together[index])
    one = Fused(moments).sample(torch.Generator().manual_seed(5))
    assert torch.equal(one, Fused(moments).sample(generator=torch.Generator().manual_seed(5)))
    assert not torch.equal(one, together)


def test_deterministic():
    moments = moments_of(IMAGE)
    ours, theirs = Fused(moments, True), Original(moments, True)
    for value, expected in ((ours.sample(), theirs.sample()), (ours.std, theirs.std), (ours.var, theirs.var)):
        assert torch.equal(value, expected)
    assert ours.kl().tolist() == [0.0] * 3
    assert theirs.kl().tolist() == [0.0]  # one zero for the whole batch


def test_kl_between_two_of_oobleck_is_negative_there():
    """The peer adds the difference of the log-variances where the divergence subtracts it."""
    moments, other = torch.zeros(1, 2, 1), torch.zeros(1, 2, 1)
    moments[0, 1] = -3.0
    q, p = (autoencoder_oobleck.OobleckDiagonalGaussianDistribution(m) for m in (moments, other))
    theirs = q.kl(p)
    ours = 2 * vf.kl_divergence(q.mean, q.logvar, p.mean, p.logvar, reduction="sum")  # its scale has no half
    assert theirs < -1
    assert ours > 0
    torch.testing.assert_close(ours, theirs - 2 * (q.logvar - p.logvar).sum(), rtol=1e-5, atol=0)
