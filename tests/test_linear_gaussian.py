"""An exact oracle: a linear decoder with orthogonal columns, whose true posterior is a diagonal Gaussian.

x = W z + b + noise of variance s2, z ~ N(0, 1), the columns of W orthogonal. Then p(z | x) is diagonal, and with
it as the encoder the ELBO equals log p(x), importance weights do not vary, and no gradient is left.
"""

from __future__ import annotations

import pytest
import torch
from helpers.inputs import key_of, keys_of
from helpers.linear_gaussian import BATCH, SCALE, TOLERANCE, LinearGaussian

import vae_fused as vf


@pytest.fixture
def model(device):
    return LinearGaussian(device)


def test_elbo_of_the_true_posterior_is_the_evidence(model):
    mu, logvar = model.posterior()
    elbo = -(model.expected_recon(mu, logvar) + vf.kl_divergence(mu, logvar, reduction="sample")) - model.normalizer()
    torch.testing.assert_close(elbo, model.log_evidence(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("num_samples", [1, 2, 50])
def test_importance_weights_do_not_vary(model, num_samples):
    # log p(x, z) - log q(z | x) = log p(x) at every z, so every sample gives it exactly.
    mu, logvar = model.posterior()
    key = keys_of(list(range(BATCH)), mu.device)
    z = vf.reparameterize(mu, logvar, num_samples=num_samples, key=key)
    for sample in z:
        zero = torch.zeros_like(sample)
        # ½|z|² is the KL of N(z, 1): the fused loss gives -log p(x, z) up to constants.
        joint = vf.elbo_loss(SCALE * model.decode(sample), SCALE * model.x, sample, zero, reduction="sample")
        noise = (sample - mu) * torch.exp(-0.5 * logvar)
        log_q = -0.5 * (noise.square() + logvar).sum(1)  # the 2 pi cancels against the prior's
        log_weight = -joint - model.normalizer() - log_q
        torch.testing.assert_close(log_weight, model.log_evidence(), rtol=0, atol=TOLERANCE)


def test_noise_of_the_sample_recovers_the_density(model):
    # The same identity without the samples' own inverse: by the noise of the key.
    mu, logvar = model.posterior()
    key = key_of(5, 0, mu.device)
    z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
    noise = vf.standard_normal(key, z.shape, dtype=z.dtype)
    log_q_over_p = (0.5 * z.square() - 0.5 * noise.square() - 0.5 * logvar).sum(1)
    loss = vf.elbo_loss(SCALE * model.decode(z), SCALE * model.x, kl=log_q_over_p, reduction="sample")
    torch.testing.assert_close(-loss - model.normalizer(), model.log_evidence(), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(kl, vf.kl_divergence(mu, logvar, reduction="sample"), rtol=1e-13, atol=0)


def test_no_gradient_is_left_at_the_true_posterior(model):
    mu, logvar = (t.clone().requires_grad_() for t in model.posterior())
    loss = (model.expected_recon(mu, logvar) + vf.kl_divergence(mu, logvar, reduction="sample")).sum()
    for gradient in torch.autograd.grad(loss, (mu, logvar)):
        assert gradient.abs().max().item() < 1e-12


def test_any_other_posterior_has_a_lower_elbo_by_its_divergence(model):
    true_mu, true_logvar = model.posterior()
    mu, logvar = true_mu + 0.3, true_logvar - 0.4
    elbo = -(model.expected_recon(mu, logvar) + vf.kl_divergence(mu, logvar, reduction="sample")) - model.normalizer()
    gap = vf.kl_divergence(mu, logvar, true_mu, true_logvar, reduction="sample")
    torch.testing.assert_close(model.log_evidence() - elbo, gap, rtol=0, atol=TOLERANCE)
    assert (gap > 0).all()


def test_sampled_gradients_average_to_the_exact_ones(model):
    mu, logvar = (t.clone() + 0.2 for t in model.posterior())
    leaves = [t.requires_grad_() for t in (mu, logvar)]
    samples = 4000
    z = vf.reparameterize(*leaves, num_samples=samples, key=key_of(8, 0, mu.device))
    error = (SCALE * (model.decode(z) - model.x)).square().sum() / samples
    sampled = torch.autograd.grad(error + vf.kl_divergence(*leaves, reduction="sum"), leaves)
    exact = torch.autograd.grad(
        (model.expected_recon(*leaves) + vf.kl_divergence(*leaves, reduction="sample")).sum(), leaves
    )
    for ours, true in zip(sampled, exact, strict=True):
        assert ((ours - true).abs().mean() / true.abs().mean()).item() < 0.1
