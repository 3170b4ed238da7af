"""Log importance weights of samples: values, gradients of both estimators, the exact oracle."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.importance import linear_decoder, small_problem
from helpers.inputs import images, key_of, keys_of, latents
from helpers.linear_gaussian import BATCH, TOLERANCE, VARIANCE, LinearGaussian
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Bernoulli, Independent, Laplace, Normal

import vae_fused as vf
from vae_fused import reference

F64 = torch.float64
GAUSSIAN = vf.GaussianLikelihood(sigma=0.7)
KINDS = [
    {"kind": "iwae"},
    {"kind": "miwae", "groups": 2},
    {"kind": "ciwae", "elbo_weight": 0.3},
    {"kind": "renyi", "alpha": 0.5},
]
per_item = pytest.mark.parametrize("per_item", [False, True], ids=["one key", "key per item"])
every_kind = pytest.mark.parametrize("options", KINDS, ids=lambda o: o["kind"])


def key_for(count, device, per_item):
    return keys_of(list(range(count)), device) if per_item else key_of(5, 3, device)


# ---- values ----------------------------------------------------------------------------------------------------------


@per_item
@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 2, 5)], ids=str)
def test_values_are_those_of_the_densities(device, per_item, shape):
    mu, logvar = latents(shape, F64, device)
    x, _ = images(shape, F64, device)
    key = key_for(3, device, per_item)
    found = vf.log_weights(torch.sin, x, mu, logvar, num_samples=5, likelihood=GAUSSIAN, key=key)
    z = reference.reparameterize(mu, logvar, num_samples=5, key=key)

    def log_prob(mean, std, value):
        return (
            Normal(mean, std).log_prob(value).flatten(2).sum(2) if len(shape) > 1 else Normal(mean, std).log_prob(value)
        )

    expected = (
        log_prob(torch.sin(z), 0.7, x.expand_as(z))
        + log_prob(torch.zeros_like(z), 1.0, z)
        - log_prob(mu.expand_as(z), torch.exp(0.5 * logvar).expand_as(z), z)
    )
    assert found.shape == (5, 3)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_likelihoods(device):
    recon, target = images((3, 2, 4), F64, device)
    normal = Independent(Normal(recon, 0.3), 2).log_prob(target)
    torch.testing.assert_close(vf.GaussianLikelihood(0.3)(recon, target), normal, rtol=1e-12, atol=0)
    laplace = Independent(Laplace(recon, 0.3), 2).log_prob(target)
    torch.testing.assert_close(vf.LaplaceLikelihood(0.3)(recon, target), laplace, rtol=1e-12, atol=0)
    bernoulli = Independent(Bernoulli(logits=recon, validate_args=False), 2).log_prob(target)
    torch.testing.assert_close(vf.BernoulliLikelihood()(recon, target), bernoulli, rtol=1e-12, atol=0)
    probabilities = vf.BernoulliLikelihood(logits=False)(recon.sigmoid(), target)
    torch.testing.assert_close(probabilities, bernoulli, rtol=1e-12, atol=0)
    one_pixel = vf.BernoulliLikelihood()(recon[:, 0, 0], target[:, 0, 0])
    expected = Bernoulli(logits=recon[:, 0, 0], validate_args=False).log_prob(target[:, 0, 0])
    torch.testing.assert_close(one_pixel, expected, rtol=1e-12, atol=0)


def test_the_default_likelihoods_are_the_error_and_its_constant(device):
    recon, target = images((3, 7), F64, device)
    squared_error = vf.elbo_loss(recon, target, kl=torch.zeros(3, dtype=F64, device=device), reduction="sample")
    expected = -squared_error - 3.5 * math.log(math.pi)
    torch.testing.assert_close(vf.GaussianLikelihood()(recon, target), expected, rtol=1e-14, atol=0)
    absolute_error = vf.elbo_loss(recon, target, kl=recon.new_zeros(3), recon_loss="l1", reduction="sample")
    expected = -absolute_error - recon[0].numel() * math.log(2.0)
    torch.testing.assert_close(vf.LaplaceLikelihood()(recon, target), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_low_precision_is_summed_in_float32(device, dtype):
    mu, logvar = latents((3, 40), dtype, device)
    logvar = logvar - 6.0  # sigma near 0.04: z - mu has few digits left in half precision
    x, _ = images((3, 40), dtype, device)
    key = key_of(5, 0, device)
    found = vf.log_weights(lambda z: z, x, mu, logvar, num_samples=4, likelihood=GAUSSIAN, key=key)
    assert found.dtype == torch.float32
    z = vf.reparameterize(mu, logvar, num_samples=4, key=key).double()
    noise = vf.standard_normal(key, z.shape, dtype=torch.float32, device=device).double()
    log_likelihood = Normal(z, 0.7).log_prob(x.double().expand_as(z)).sum(2)
    ratio = (0.5 * noise.square() - 0.5 * z.square() + 0.5 * logvar.double()).sum(2)
    torch.testing.assert_close(found.double(), log_likelihood + ratio, rtol=1e-5, atol=1e-4)


@every_kind
@per_item
@pytest.mark.parametrize("num_samples", [2, 50])
def test_every_bound_of_the_oracle_is_the_evidence(device, options, per_item, num_samples):
    model = LinearGaussian(device)
    likelihood = vf.GaussianLikelihood(sigma=math.sqrt(VARIANCE))
    key = key_for(BATCH, device, per_item)
    weights = vf.log_weights(
        model.decode, model.x, *model.posterior(), num_samples=num_samples, likelihood=likelihood, key=key
    )
    assert (weights - model.log_evidence()).abs().max().item() < TOLERANCE  # no variance from sample to sample
    bound = vf.importance_weighted_bound(weights, **options, reduction="sample")
    torch.testing.assert_close(bound, model.log_evidence(), rtol=0, atol=TOLERANCE)


# ---- gradients -------------------------------------------------------------------------------------------------------


@every_kind
@per_item
def test_first_and_second_derivatives(device, options, per_item):
    key = key_for(3, device, per_item)

    def bound(x, mu, logvar, weight):
        weights = vf.log_weights(linear_decoder(weight), x, mu, logvar, num_samples=4, likelihood=GAUSSIAN, key=key)
        return vf.importance_weighted_bound(weights, **options)

    operands = [t.requires_grad_() for t in small_problem(device)]
    assert gradcheck(bound, operands)
    assert gradgradcheck(bound, operands)


def test_derivatives_through_a_bernoulli(device):
    x, mu, logvar, weight = small_problem(device)
    key = key_of(5, 3, device)

    def weights(mu, logvar, weight):
        return vf.log_weights(
            linear_decoder(weight), x, mu, logvar, num_samples=3, likelihood=vf.BernoulliLikelihood(), key=key
        )

    operands = [t.requires_grad_() for t in (mu, logvar, weight)]
    assert gradcheck(weights, operands)
    assert gradgradcheck(weights, operands)


def parts_of_dreg(x, mu, logvar, weight, num_samples, key):
    """The doubly reparameterized gradient by its formula, from the gradient of each weight by itself."""
    z = reference.reparameterize(mu, logvar, num_samples=num_samples, key=key).detach().requires_grad_()
    std = torch.exp(0.5 * logvar).detach()
    log_weights = (
        GAUSSIAN(linear_decoder(weight)(z).flatten(0, 1), x.repeat(num_samples, 1)).view(num_samples, -1)
        + Normal(0.0, 1.0).log_prob(z).sum(2)
        - Normal(mu.detach(), std).log_prob(z).sum(2)
    )
    normalized = log_weights.softmax(0).detach()
    of_z, of_weight = torch.autograd.grad((normalized * log_weights).sum(), (z, weight))
    squared = of_z * normalized.unsqueeze(2)
    noise = (z.detach() - mu.detach()) / std
    return squared.sum(0), (0.5 * std * noise * squared).sum(0), of_weight


@per_item
def test_dreg_is_its_formula(device, per_item):
    x, *leaves = small_problem(device)
    leaves = [t.requires_grad_() for t in leaves]
    mu, logvar, weight = leaves
    key = key_for(3, device, per_item)
    weights = {
        estimator: vf.log_weights(
            linear_decoder(weight), x, mu, logvar, num_samples=6, likelihood=GAUSSIAN, key=key, estimator=estimator
        )
        for estimator in ("standard", "dreg")
    }
    torch.testing.assert_close(weights["dreg"], weights["standard"], rtol=1e-13, atol=1e-13)
    bounds = {name: vf.importance_weighted_bound(value, reduction="sum") for name, value in weights.items()}
    found = torch.autograd.grad(bounds["dreg"], leaves)
    for ours, theirs in zip(found, parts_of_dreg(x, *leaves, 6, key), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    # The decoder's gradient is that of the bound itself.
    (standard,) = torch.autograd.grad(bounds["standard"], weight)
    torch.testing.assert_close(found[2], standard, rtol=1e-12, atol=1e-14)


def test_both_estimators_have_one_expectation_and_dreg_more_signal_from_more_samples(device):
    model = LinearGaussian(device)
    mu, logvar = (t[:1] for t in model.posterior())
    mu, logvar = mu + 0.2, logvar + 0.3  # wider than the true posterior: no weight is far above the others
    repeats = 4_000
    signal = {}
    for num_samples in (4, 64):
        mean, error = {}, {}
        for estimator in ("standard", "dreg"):
            rows = [t.expand(repeats, -1).contiguous().requires_grad_() for t in (mu, logvar)]
            weights = vf.log_weights(
                model.decode,
                model.x[:1].expand(repeats, -1),
                *rows,
                num_samples=num_samples,
                likelihood=vf.GaussianLikelihood(sigma=math.sqrt(VARIANCE)),
                key=key_of(9, 0, device),
                estimator=estimator,
            )
            bound = vf.importance_weighted_bound(weights, reduction="sum")
            gradients = torch.cat(torch.autograd.grad(bound, rows), dim=1)
            mean[estimator], error[estimator] = gradients.mean(0), gradients.std(0) / math.sqrt(repeats)
            # Of mu: the gradient of logvar changes its sign on the way from 4 samples to 64.
            signal[estimator, num_samples] = (gradients.mean(0).abs() / gradients.std(0))[: mu.shape[1]]
        allowed = 4.0 * (error["standard"].square() + error["dreg"].square()).sqrt()
        assert ((mean["standard"] - mean["dreg"]).abs() < allowed).all()
    assert (signal["dreg", 64] > 2.0 * signal["dreg", 4]).all()
    assert (signal["standard", 64] < 0.5 * signal["standard", 4]).all()


def test_dreg_has_no_variance_at_the_true_posterior(device):
    model = LinearGaussian(device)
    mu, logvar = (t.clone().requires_grad_() for t in model.posterior())
    gradients = {}
    for estimator in ("standard", "dreg"):
        weights = vf.log_weights(
            model.decode,
            model.x,
            mu,
            logvar,
            num_samples=3,
            likelihood=vf.GaussianLikelihood(sigma=math.sqrt(VARIANCE)),
            key=key_of(1, 0, device),
            estimator=estimator,
        )
        gradients[estimator] = torch.autograd.grad(vf.importance_weighted_bound(weights), (mu, logvar))
    for standard, dreg in zip(gradients["standard"], gradients["dreg"], strict=True):
        assert dreg.abs().max().item() < 1e-12
        assert standard.abs().max().item() > 1e-3
