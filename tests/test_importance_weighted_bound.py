"""The bounds as functions of log-weights: formulas, order, derivatives, extremes and errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.tolerances import DTYPES
from torch.autograd import gradcheck, gradgradcheck

import vae_fused as vf
from vae_fused.bounds import log_density_ratios, log_likelihoods

F64 = torch.float64
KINDS = [
    {"kind": "iwae"},
    {"kind": "miwae", "groups": 1},
    {"kind": "miwae", "groups": 2},
    {"kind": "miwae", "groups": 6},
    {"kind": "ciwae", "elbo_weight": 0.0},
    {"kind": "ciwae", "elbo_weight": 0.3},
    {"kind": "ciwae", "elbo_weight": 1},
    *({"kind": "renyi", "alpha": alpha} for alpha in (-2.0, 0, 0.5, 1.0, 1.0 - 1e-9, 3.0)),
]
every_kind = pytest.mark.parametrize("options", KINDS, ids=lambda o: "-".join(str(value) for value in o.values()))


def definition(weights, kind, groups=1, elbo_weight=0.0, alpha=0.0):
    """Each bound as its paper writes it, for weights that do not overflow."""
    log_weights, weights = weights, weights.exp()
    iwae = weights.mean(0).log()
    if kind == "miwae":
        return torch.stack([part.mean(0).log() for part in weights.chunk(groups)]).mean(0)
    if kind == "ciwae":
        return elbo_weight * log_weights.mean(0) + (1 - elbo_weight) * iwae
    if kind == "renyi" and abs(1.0 - alpha) < 1e-6:
        # The limit and its first correction, (1 - alpha) / 2 times the variance.
        return log_weights.mean(0) + 0.5 * (1.0 - alpha) * log_weights.var(0, correction=0)
    if kind == "renyi":
        return (weights ** (1 - alpha)).mean(0).log() / (1 - alpha)
    return iwae


@every_kind
@pytest.mark.parametrize("reduction", ["batchmean", "sum", "sample"])
def test_definitions(device, options, reduction):
    weights = 2.0 * torch.randn(6, 5, dtype=F64).to(device)
    items = definition(weights, **options)
    expected = {"batchmean": items.mean(), "sum": items.sum(), "sample": items}[reduction]
    found = vf.importance_weighted_bound(weights, **options, reduction=reduction)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@every_kind
def test_first_and_second_derivatives(device, options):
    weights = torch.randn(6, 3, dtype=F64).to(device).requires_grad_()
    for reduction in ("batchmean", "sample"):
        assert gradcheck(lambda w, r=reduction: vf.importance_weighted_bound(w, **options, reduction=r), (weights,))
        assert gradgradcheck(lambda w, r=reduction: vf.importance_weighted_bound(w, **options, reduction=r), (weights,))


@every_kind
def test_equal_weights_give_their_value(options):
    weights = torch.tensor([-1234.5, 3.25], dtype=F64).expand(6, 2)
    found = vf.importance_weighted_bound(weights, **options, reduction="sample")
    torch.testing.assert_close(found, weights[0], rtol=1e-15, atol=0)


@every_kind
@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_neither_overflow_nor_underflow(options, shift):
    weights = 3.0 * torch.randn(6, 4, dtype=F64)
    near, far = (vf.importance_weighted_bound(w, **options, reduction="sample") for w in (weights, weights + shift))
    torch.testing.assert_close(far - shift, near, rtol=0, atol=1e-11)
    spread = torch.tensor([[0.0], [-1e4]], dtype=F64).expand(2, 6).reshape(6, 2).requires_grad_()
    bound = vf.importance_weighted_bound(spread, **options)
    assert bound.isfinite()
    assert torch.autograd.grad(bound, spread)[0].isfinite().all()


def test_renyi_is_smooth_through_the_elbo():
    weights = 2.0 * torch.randn(50, 1, dtype=F64)
    elbo = vf.importance_weighted_bound(weights, "renyi", alpha=1.0)
    variance = weights.var(correction=0)
    for distance in (1e-3, 1e-6, 1e-9, 1e-12):
        for alpha in (1.0 - distance, 1.0 + distance):
            slope = (vf.importance_weighted_bound(weights, "renyi", alpha=alpha) - elbo) / (1.0 - alpha)
            # The bound itself is right to rounding, so its difference over the distance is to rounding / distance.
            assert slope.item() == pytest.approx(0.5 * variance.item(), abs=20 * distance + 1e-14 / distance)


def test_a_sample_of_weight_zero_counts_and_has_no_gradient():
    weights = torch.tensor([[0.0], [-math.inf]], dtype=F64, requires_grad=True)
    for options in ({"kind": "iwae"}, {"kind": "ciwae", "elbo_weight": 0.0}, {"kind": "renyi", "alpha": 0.5}):
        bound = vf.importance_weighted_bound(weights, **options)
        assert bound.item() == pytest.approx(math.log(0.5) / (1.0 - options.get("alpha", 0.0)))
        assert torch.autograd.grad(bound, weights)[0].tolist() == [[1.0], [0.0]]


def test_no_item_is_poisoned_by_another():
    weights = torch.zeros(3, 3)
    weights[1, 1], weights[:, 2] = math.nan, -math.inf
    for options in ({"kind": "iwae"}, {"kind": "renyi", "alpha": 0.5}):
        found = vf.importance_weighted_bound(weights, **options, reduction="sample").tolist()
        assert found[0] == 0.0
        assert math.isnan(found[1])
        assert found[2] == -math.inf


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtype(device, dtype):
    weights = (-700.0 + torch.randn(6, 3, dtype=F64)).to(device, dtype)
    for options in KINDS:
        found = vf.importance_weighted_bound(weights, **options)
        assert found.dtype == (F64 if dtype == F64 else torch.float32)
        expected = vf.importance_weighted_bound(weights.double(), **options)
        torch.testing.assert_close(found.double(), expected, rtol=1e-7, atol=0)


# ---- a model that is not conjugate, by quadrature --------------------------------------------------------------------


class Sine:
    """x = sin(2 z) + z / 2 and Gaussian noise, one latent; the posterior is far from Gaussian."""

    likelihood = vf.GaussianLikelihood(sigma=0.4)
    x = torch.tensor([[0.3], [1.4], [-2.0]], dtype=F64)
    mu = torch.tensor([[0.1], [1.0], [-1.2]], dtype=F64)
    logvar = torch.tensor([[-0.7], [-1.0], [-0.5]], dtype=F64)

    @staticmethod
    def decode(z):
        return torch.sin(2.0 * z) + 0.5 * z

    def log_evidence(self):
        z = torch.linspace(-12.0, 12.0, 20_001, dtype=F64)
        log_prior = -0.5 * (z.square() + math.log(2.0 * math.pi))
        rows = [self.likelihood(self.decode(z).view(-1, 1), x.expand(len(z), 1)) for x in self.x]
        return torch.logsumexp(torch.stack(rows) + log_prior, 1) + math.log(24.0 / 20_000)

    def log_weights_at(self, noise):
        """Of given noise ``[N]`` in place of drawn one, ``[N, items]``."""
        noise = noise.view(-1, 1, 1).expand(-1, len(self.x), 1)
        z = self.mu + torch.exp(0.5 * self.logvar) * noise
        return log_likelihoods(self.decode, self.likelihood, self.x, z) + log_density_ratios(z, noise, self.logvar)

    def expected_bound(self, num_samples, **options):
        """Expectation over all samples by Gauss-Hermite quadrature in as many dimensions."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        log_weights, weights = self.log_weights_at(torch.tensor(nodes)), torch.tensor(weights / weights.sum())
        grids = torch.cartesian_prod(*[torch.arange(60)] * num_samples).view(-1, num_samples)
        products = weights[grids].prod(1)
        bounds = [
            vf.importance_weighted_bound(item[grids].T, **options, reduction="sample") for item in log_weights.unbind(1)
        ]
        return torch.stack([(products * bound).sum() for bound in bounds])


def test_the_weights_are_those_of_the_evidence():
    model = Sine()
    nodes = torch.linspace(-14.0, 14.0, 40_001, dtype=F64)
    density = torch.exp(-0.5 * nodes.square()) / math.sqrt(2.0 * math.pi)
    evidence = (model.log_weights_at(nodes).exp() * density.unsqueeze(1)).sum(0) * (28.0 / 40_000)
    torch.testing.assert_close(evidence.log(), model.log_evidence(), rtol=0, atol=1e-10)


def test_more_samples_are_a_tighter_bound():
    model = Sine()
    elbo, *tighter = (model.expected_bound(k, kind="iwae") for k in (1, 2, 3))
    closed_form = -vf.kl_divergence(model.mu, model.logvar, reduction="sample")
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = model.mu + torch.exp(0.5 * model.logvar) * torch.tensor(nodes).view(-1, 1, 1)
    expected = (
        torch.tensor(weights / weights.sum()).unsqueeze(1) * log_likelihoods(model.decode, model.likelihood, model.x, z)
    ).sum(0)
    torch.testing.assert_close(elbo, closed_form + expected, rtol=0, atol=1e-10)
    bounds = torch.stack([elbo, *tighter, model.log_evidence()])
    assert (bounds.diff(dim=0) > 1e-3).all()


def test_the_other_bounds_lie_where_they_are_said_to():
    model = Sine()
    elbo, iwae, evidence = model.expected_bound(1), model.expected_bound(2), model.log_evidence()
    torch.testing.assert_close(model.expected_bound(2, kind="miwae", groups=2), elbo, rtol=0, atol=1e-10)
    half = model.expected_bound(2, kind="ciwae", elbo_weight=0.5)
    torch.testing.assert_close(half, 0.5 * (elbo + iwae), rtol=0, atol=1e-10)
    by_alpha = [model.expected_bound(2, kind="renyi", alpha=alpha) for alpha in (2.0, 1.0, 0.5, 0.0, -1.0)]
    assert (torch.stack(by_alpha).diff(dim=0) > 1e-3).all()
    torch.testing.assert_close(by_alpha[1], elbo, rtol=0, atol=1e-10)
    torch.testing.assert_close(by_alpha[3], iwae, rtol=0, atol=1e-10)
    assert (iwae < evidence).all()


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "options", "error", "message"),
    [
        ([1.0], {}, TypeError, "log_weights must be a tensor, got list"),
        (torch.ones(2, 2, dtype=torch.int64), {}, TypeError, "log_weights must be float16, bfloat16, float32 or"),
        (torch.ones(3), {}, ValueError, r"log_weights must have shape \[samples, batch\], got \[3\]"),
        (torch.ones(0, 3), {}, ValueError, r"log_weights must hold at least one sample, got \[0, 3\]"),
        (torch.ones(2, 2), {"kind": "vr"}, ValueError, "kind must be one of iwae, miwae, ciwae, renyi, got 'vr'"),
        (torch.ones(2, 2), {"reduction": "mean"}, ValueError, "reduction must be one of batchmean, sum, sample"),
        (torch.ones(2, 2), {"kind": "miwae"}, ValueError, "kind='miwae' needs groups"),
        (torch.ones(2, 2), {"kind": "ciwae"}, ValueError, "kind='ciwae' needs elbo_weight"),
        (torch.ones(2, 2), {"kind": "renyi"}, ValueError, "kind='renyi' needs alpha"),
        (torch.ones(2, 2), {"alpha": 0.5}, ValueError, "alpha belongs to kind='renyi', got kind='iwae'"),
        (torch.ones(4, 2), {"kind": "miwae", "groups": 3}, ValueError, "groups must divide the number of samples, 4"),
        (torch.ones(4, 2), {"kind": "miwae", "groups": 0}, ValueError, "groups must be at least 1, got 0"),
        (torch.ones(4, 2), {"kind": "miwae", "groups": 2.0}, TypeError, "groups must be an integer, got float"),
        (torch.ones(4, 2), {"kind": "ciwae", "elbo_weight": 1.5}, ValueError, "elbo_weight must be from 0 to 1"),
        (torch.ones(4, 2), {"kind": "ciwae", "elbo_weight": "1"}, TypeError, "elbo_weight must be a number, got str"),
        (torch.ones(4, 2), {"kind": "renyi", "alpha": -math.inf}, ValueError, "alpha must be finite, got -inf"),
    ],
)
def test_errors(weights, options, error, message):
    with pytest.raises(error, match=message):
        vf.importance_weighted_bound(weights, **options)
