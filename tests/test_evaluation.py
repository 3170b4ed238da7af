"""vf.evaluate: its figures against formulas and the exact oracle, whatever the batches, chunks and loaders."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.evaluation import Encoding, assert_same, posteriors
from helpers.inputs import key_of
from helpers.linear_gaussian import VARIANCE, LinearGaussian
from helpers.models import batch
from helpers.tolerances import between_batch_sizes
from torch.distributions import Normal
from torch.utils.data import DataLoader, TensorDataset

import vae_fused as vf

F64 = torch.float64
ORACLE = vf.GaussianLikelihood(sigma=math.sqrt(VARIANCE))


# ---- the same numbers ------------------------------------------------------------------------------------------------


def test_batch_size_and_chunk_change_nothing(device):
    model, data = vf.mlp_vae((1, 8, 8), 6, (32,)).double().to(device), batch(23, device).double()
    whole = vf.evaluate(model, data, num_samples=9, batch_size=23)
    for batch_size, chunk in ((1, None), (7, 2), (22, 100)):
        assert_same(vf.evaluate(model, data, num_samples=9, batch_size=batch_size, chunk=chunk), whole, rtol=1e-12)


def test_where_the_model_has_no_rounding_of_its_own_the_items_are_equal_to_the_bit(device):
    data = posteriors(23, 3, device)
    whole = vf.evaluate(Encoding(3), data, num_samples=9, batch_size=23)
    for batch_size in (1, 7):
        found = vf.evaluate(Encoding(3), data, num_samples=9, batch_size=batch_size)
        for name in ("reconstruction", "mutual_information", "active_units"):
            expected = pytest.approx(getattr(whole, name), rel=between_batch_sizes(F64, device)["rtol"], abs=0)
            assert getattr(found, name) == expected
        assert_same(found, whole, rtol=1e-14)


def test_loaders_and_batches_are_data_as_well():
    data = posteriors(10, 3)
    whole = vf.evaluate(Encoding(3), data, num_samples=5)
    for source in (
        DataLoader(TensorDataset(data, torch.arange(10)), batch_size=4),
        DataLoader(data, batch_size=3),
        data.split(6),
        (part for part in data.split(1)),
        [data[:4], data[:0], data[4:]],
    ):
        assert_same(vf.evaluate(Encoding(3), source, num_samples=5), whole, rtol=1e-13)


def test_a_posterior_may_be_a_diagonal_gaussian():
    class Packed(Encoding):
        def encode(self, x):
            return vf.DiagonalGaussian(x)

    data = posteriors(10, 3)
    assert_same(vf.evaluate(Packed(3), data, num_samples=5), vf.evaluate(Encoding(3), data, num_samples=5), rtol=1e-14)


def test_a_model_without_latents():
    class WithoutLatents:
        def encode(self, x):
            return x[:, :0], x[:, :0]

        def decode(self, z):
            return z.new_zeros(len(z), 6)

    data = torch.rand(4, 6, dtype=F64)
    found = vf.evaluate(WithoutLatents(), data, num_samples=2)
    assert (found.kl, found.mutual_information, found.active_units) == (0.0, 0.0, 0)
    assert found.nll == pytest.approx(-vf.GaussianLikelihood()(0 * data, data).mean().item(), rel=1e-12)


def test_the_seed_decides_the_noise():
    data = posteriors(10, 3)
    first, again, other = (vf.evaluate(Encoding(3), data, num_samples=5, seed=seed) for seed in (1, 1, 2**64 - 1))
    assert_same(first, again, rtol=0)
    assert first.nll != other.nll
    assert first.kl == other.kl
    torch.manual_seed(1)
    state = torch.get_rng_state()
    vf.evaluate(Encoding(3), data, num_samples=5)
    assert torch.equal(torch.get_rng_state(), state)


# ---- the figures -----------------------------------------------------------------------------------------------------


def test_the_oracle(device):
    model = LinearGaussian(device)
    found = vf.evaluate(model, model.x, num_samples=50, likelihood=ORACLE)
    evidence = model.log_evidence().cpu()
    mu, logvar = model.posterior()
    assert found.nll == pytest.approx(-evidence.mean().item(), abs=1e-10)
    assert found.nll_sampling_error < 1e-12
    assert found.nll_standard_error == pytest.approx(evidence.std().item() / math.sqrt(len(evidence)), rel=1e-10)
    assert found.kl == pytest.approx(vf.kl_divergence(mu, logvar).item(), rel=1e-12)
    assert found.elbo == -(found.reconstruction + found.kl)


def test_figures_are_those_of_the_functions(device):
    data, model = posteriors(12, 3, device), Encoding(3)
    found = vf.evaluate(model, data, num_samples=7, seed=5)
    mu, logvar = model.encode(data)
    log_p = vf.log_likelihood(model, data, 7, key=key_of(5, 0, device))
    assert found.nll == pytest.approx(-log_p.mean().item(), rel=1e-14)
    assert found.nll_standard_error == pytest.approx(log_p.std().item() / math.sqrt(12), rel=1e-13)
    assert found.kl == pytest.approx(vf.kl_divergence(mu, logvar).item(), rel=1e-14)
    elements = vf.kl_divergence(mu, logvar, reduction="none")
    torch.testing.assert_close(found.kl_per_dimension, elements.mean(0).cpu(), rtol=1e-13, atol=0)
    torch.testing.assert_close(found.variance_of_means, mu.var(0, correction=0).cpu(), rtol=1e-12, atol=0)
    assert (found.num_items, found.num_samples, found.dimensions) == (12, 7, 6)
    assert found.nll_bits_per_dimension == pytest.approx(found.nll / 6 / math.log(2), rel=1e-15)
    assert found.elbo_bits_per_dimension == pytest.approx(-found.elbo / 6 / math.log(2), rel=1e-15)


def test_the_reconstruction_is_its_expectation_over_the_samples():
    # Of x = decode(z) + noise with a linear decoder the expectation is known: squared bias and spread.
    class Linear(Encoding):
        def decode(self, z):
            return torch.cat([0.5 * z, -z], dim=1)

    data, model = posteriors(6, 2), Linear(2)
    mu, logvar = model.encode(data)
    expected = ((model.decode(mu) - data).square().sum(1) + 1.25 * logvar.exp().sum(1) + 2 * math.log(math.pi)).mean()
    found = vf.evaluate(model, data, num_samples=20_000)
    assert found.reconstruction == pytest.approx(expected.item(), rel=5e-3)


def test_the_sampling_error_is_the_spread_over_seeds():
    class Wider(LinearGaussian):
        def encode(self, x):
            mu, logvar = super().encode(x)
            return mu + 0.1, logvar + 0.3

    model = Wider("cpu")
    found = [vf.evaluate(model, model.x, num_samples=200, likelihood=ORACLE, seed=seed) for seed in range(80)]
    spread = torch.tensor([one.nll for one in found], dtype=F64).std().item()
    stated = sum(one.nll_sampling_error for one in found) / len(found)
    assert spread == pytest.approx(stated, rel=0.3)  # 80 draws know their own spread to 8 %


def test_units_that_do_not_move_are_not_active():
    data = posteriors(200, 4)
    data[:, 1] = 3.0  # constant
    data[:, 2] *= 0.05  # variance near 0.0025
    found = vf.evaluate(Encoding(4), data, num_samples=1)
    assert found.active_units == 2
    assert found.variance_of_means[1] == 0.0
    far = data.clone()
    far[:, 1] += 1e6 + 0.001 * torch.randn(200, dtype=F64)  # a variance of 1e-6 beside a square of 1e12
    found = vf.evaluate(Encoding(4), far, num_samples=1)
    assert found.variance_of_means[1].item() == pytest.approx(far[:, 1].var(correction=0).item(), rel=1e-6)


def test_mutual_information_is_its_double_sum(device):
    data, model = posteriors(30, 3, device), Encoding(3)
    found = vf.evaluate(model, data, num_samples=2, seed=3)
    mu, logvar = model.encode(data)
    keys = torch.tensor([[3, i << 32] for i in range(30)], dtype=torch.uint64, device=device)
    z = vf.reparameterize(mu, logvar, key=keys)
    pairs = Normal(mu, torch.exp(0.5 * logvar)).log_prob(z.unsqueeze(1)).sum(2)  # [i, j]: log q(z_i | x_j)
    expected = (pairs.diagonal() - pairs.logsumexp(1) + math.log(30)).mean()
    assert found.mutual_information == pytest.approx(expected.item(), rel=1e-12)


def test_mutual_information_at_its_ends():
    apart = torch.cat([100.0 * torch.arange(50, dtype=F64).view(50, 1), torch.full((50, 1), -4.0, dtype=F64)], 1)
    assert vf.evaluate(Encoding(1), apart, num_samples=1).mutual_information == pytest.approx(math.log(50), abs=1e-12)
    same = torch.tensor([[0.3, -1.0]], dtype=F64).expand(50, 2)
    assert vf.evaluate(Encoding(1), same, num_samples=1).mutual_information == pytest.approx(0.0, abs=1e-12)


def test_mutual_information_is_left_out_of_large_data():
    model = Encoding(1)
    assert vf.evaluate(model, posteriors(10_000, 1), num_samples=1, batch_size=3000).mutual_information is not None
    assert vf.evaluate(model, posteriors(10_001, 1), num_samples=1, batch_size=3000).mutual_information is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_low_precision_is_summed_in_float64(dtype):
    data = posteriors(12, 3).to(dtype)
    found, exact = (vf.evaluate(Encoding(3), x, num_samples=5) for x in (data, data.double()))
    assert found.kl == pytest.approx(exact.kl, rel=1e-6)
    torch.testing.assert_close(found.variance_of_means, exact.variance_of_means, rtol=1e-12, atol=0)


def test_latents_of_another_rank():
    class Maps:
        def encode(self, x):
            return 0.5 * x, -0.3 * x

        def decode(self, z):
            return 0.8 * z

    data = torch.randn(7, 2, 3, 3, dtype=F64)
    found = vf.evaluate(Maps(), data, num_samples=3)
    assert found.kl_per_dimension.shape == found.variance_of_means.shape == (2, 3, 3)
    assert found.dimensions == 18
    # Without event dimensions an item has one latent, of shape [].
    scalar = vf.evaluate(Maps(), data[:, 0, 0, 0], num_samples=3)
    assert scalar.kl_per_dimension.shape == ()
    assert scalar.mutual_information is not None


def test_one_item_and_one_sample_have_no_error_estimate():
    found = vf.evaluate(Encoding(2), posteriors(1, 2), num_samples=1)
    assert math.isnan(found.nll_standard_error)
    assert math.isnan(found.nll_sampling_error)
    assert math.isfinite(found.nll)
    assert found.mutual_information == pytest.approx(0.0, abs=1e-12)


def test_the_standard_models(device):
    for model in (vf.mlp_vae((1, 8, 8), 6, (32,)), vf.conv_vae((1, 8, 8), 6, (4, 8))):
        model.to(device).train()
        found = vf.evaluate(model, batch(9), num_samples=20, likelihood=vf.GaussianLikelihood(0.5))
        assert model.training
        assert -found.elbo > found.nll > 0
        assert found.kl_per_dimension.sum().item() == pytest.approx(found.kl, rel=1e-12)
