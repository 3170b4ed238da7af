"""log p(x): the exact oracle, its count of samples, and that chunks and neighbours change nothing."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.inputs import key_of, keys_of
from helpers.linear_gaussian import TOLERANCE, VARIANCE, LinearGaussian
from helpers.models import batch
from helpers.tolerances import between_batch_sizes
from torch import nn

import vae_fused as vf

F64 = torch.float64


class Elementwise(nn.Module):
    """An encoder and a decoder whose rows have the same bits in any batch."""

    def encode(self, x):
        return 0.8 * x[:, :3] - x[:, 3:6], -0.5 * x[:, :3] - 1.0

    def decode(self, z):
        return torch.cat([z * 0.5 + 0.1, z * z - 1.0], dim=1)


class Counting(Elementwise):
    def __init__(self):
        super().__init__()
        self.rows, self.modes, self.grad_modes = [], [], []

    def decode(self, z):
        self.rows.append(len(z))
        self.modes.append(self.training)
        self.grad_modes.append(torch.is_grad_enabled())
        return super().decode(z)


def data(device, count=4, dtype=F64):
    return torch.rand(count, 6, dtype=F64).to(device, dtype)


@pytest.mark.parametrize("num_samples", [1, 2, 50])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_oracle(device, num_samples, seed):
    model = LinearGaussian(device)
    found = vf.log_likelihood(
        model,
        model.x,
        num_samples,
        likelihood=vf.GaussianLikelihood(sigma=math.sqrt(VARIANCE)),
        key=key_of(seed, 0, device),
    )
    torch.testing.assert_close(found, model.log_evidence(), rtol=0, atol=TOLERANCE)


def test_another_posterior_comes_near_with_many_samples(device):
    class Shifted(LinearGaussian):
        def encode(self, x):
            mu, logvar = super().encode(x)
            return mu + 0.1, logvar + 0.2

    model = Shifted(device)
    likelihood = vf.GaussianLikelihood(sigma=math.sqrt(VARIANCE))
    errors = []
    for count in (1, 3_000):
        found = vf.log_likelihood(model, model.x, count, likelihood=likelihood, key=key_of(3, 0, device))
        errors.append((found - model.log_evidence()).abs().max().item())
    assert errors[1] < 0.03 < 0.1 < errors[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64], ids=str)
@pytest.mark.parametrize("per_item", [False, True], ids=["one key", "key per item"])
def test_chunks_change_no_bit(device, dtype, per_item):
    x = data(device, dtype=dtype)
    key = keys_of(list(range(4)), device) if per_item else key_of(7, 2, device)
    whole = vf.log_likelihood(Elementwise(), x, 11, key=key)
    assert whole.dtype == F64
    for chunk in (1, 3, 11, 100):
        assert torch.equal(vf.log_likelihood(Elementwise(), x, 11, chunk=chunk, key=key), whole)


def test_chunks_change_a_network_by_its_rounding_alone(device):
    model, x = vf.mlp_vae((1, 8, 8), 6, (32,)).double().to(device), batch(5, device).double()
    key = key_of(7, 2, device)
    whole = vf.log_likelihood(model, x, 11, key=key)
    for chunk in (1, 3):
        found = vf.log_likelihood(model, x, 11, chunk=chunk, key=key)
        torch.testing.assert_close(found, whole, rtol=1e-12, atol=0)


def test_the_count_of_samples_is_exact():
    x = data("cpu")
    for chunk in (1, 3, 7, None):
        model = Counting()
        vf.log_likelihood(model, x, 7, chunk=chunk)
        assert sum(model.rows) == 7 * 4
        assert max(model.rows) <= 4 * (chunk or 7)


def test_the_first_samples_stay_when_there_are_more():
    # exp of the estimate times K is the sum of the weights: from K to K + 1 it grows by one of them.
    x, key = data("cpu"), key_of(1)
    sums = torch.stack([vf.log_likelihood(Elementwise(), x, k, key=key).exp() * k for k in range(1, 7)])
    weights = sums.diff(dim=0)
    assert (weights > 0).all()
    alone = vf.log_weights(Elementwise().decode, x[:1], *Elementwise().encode(x[:1]), num_samples=1, key=key).exp()
    torch.testing.assert_close(sums[0, :1], alone[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_an_item_does_not_depend_on_its_neighbours(device, dtype):
    x, keys = data(device, dtype=dtype), keys_of([3, 1, 4, 1], device)
    whole = vf.log_likelihood(Elementwise(), x, 5, key=keys)
    for item in range(4):
        alone = vf.log_likelihood(Elementwise(), x[item : item + 1], 5, key=keys[item : item + 1])
        torch.testing.assert_close(alone[0], whole[item], **between_batch_sizes(F64, device))


def test_one_key_is_a_key_for_each_item(device):
    x = data(device)
    keys = torch.tensor([[9, 5 + (i << 32)] for i in range(4)], dtype=torch.uint64, device=device)
    one = vf.log_likelihood(Elementwise(), x, 5, key=key_of(9, 5, device))
    assert torch.equal(one, vf.log_likelihood(Elementwise(), x, 5, key=keys))
    assert len(set(one.tolist())) == 4


@pytest.mark.parametrize(("dtype", "latents"), [(torch.float32, 4), (F64, 2), (F64, 4)])
def test_the_samples_are_those_of_the_weights_where_lanes_allow(device, dtype, latents):
    # A sample begins with a block of the noise, and so does the next one where its latents fill blocks.
    x, keys = torch.rand(3, latents, dtype=F64).to(device, dtype), keys_of([3, 1, 4], device)

    class Identity:
        def encode(self, x):
            return 0.5 * x, -0.5 * x

        def decode(self, z):
            return 0.9 * z

    model = Identity()
    weights = vf.log_weights(model.decode, x, *model.encode(x), num_samples=6, key=keys)
    bound = vf.importance_weighted_bound(weights.double(), reduction="sample")
    found = vf.log_likelihood(model, x, 6, key=keys)
    torch.testing.assert_close(found, bound, rtol=1e-6 if dtype == torch.float32 else 1e-13, atol=0)


def test_without_a_key_the_default_generator_decides():
    x = data("cpu")
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(vf.log_likelihood(Elementwise(), x, 5))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_eval_mode_meanwhile(training):
    model = Counting().train(training)
    model.child = nn.Dropout().train(not training)
    assert not vf.log_likelihood(model, data("cpu"), 3).requires_grad
    assert not any(model.modes)
    assert not any(model.grad_modes)
    assert (model.training, model.child.training) == (training, not training)


def test_modes_come_back_after_an_error():
    model = Counting().train()
    with pytest.raises(ValueError, match="target must have the shape of recon"):
        vf.log_likelihood(model, data("cpu").repeat(1, 2), 3)
    assert model.training


def test_bernoulli_pixels(device):
    model = vf.mlp_vae((1, 8, 8), 6, (32,)).to(device)  # with a sigmoid
    found = vf.log_likelihood(
        model, batch(3, device).round(), 50, likelihood=vf.BernoulliLikelihood(logits=False), key=key_of(1, 0, device)
    )
    assert found.shape == (3,)
    assert (found < 0).all()  # a probability


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1, got 0"),
        ({"num_samples": None}, TypeError, "num_samples must be an integer, got NoneType"),
        ({"num_samples": 1.5}, TypeError, "num_samples must be an integer, got float"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1, got 0"),
        ({"model": nn.Linear(6, 6)}, TypeError, "model must have a method encode, got Linear"),
        ({"model": Elementwise}, TypeError, "model must be an instance, got the class Elementwise"),
        ({"likelihood": None}, TypeError, "likelihood must be a function, got NoneType"),
        ({"x": [1.0]}, TypeError, "x must be a tensor, got list"),
        ({"x": torch.ones(4, 6, dtype=torch.int64)}, TypeError, "x must be float16, bfloat16, float32 or float64"),
        ({"key": torch.ones(2)}, TypeError, "key must be uint64"),
        ({"key": keys_of([1, 2])}, ValueError, r"key must have shape \[2\] or \[batch, 2\] with batch 4"),
    ],
)
def test_errors(change, error, message):
    with pytest.raises(error, match=message):
        vf.log_likelihood(**{"model": Elementwise(), "x": data("cpu"), "num_samples": 3, **change})


def test_an_empty_batch_has_no_values():
    assert vf.log_likelihood(Elementwise(), data("cpu", 0), 3).shape == (0,)
