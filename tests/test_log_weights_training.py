"""Log importance weights of samples in training steps: compilation, transforms, generators; and errors."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.importance import linear_decoder, small_problem
from helpers.inputs import key_of, latents
from helpers.linear_gaussian import DATA
from helpers.models import batch
from torch.torch_version import TorchVersion

import vae_fused as vf


@pytest.mark.parametrize("estimator", ["standard", "dreg"])
@pytest.mark.parametrize("keyed", [False, True], ids=["generator", "key"])
def test_compiles_whole(device, estimator, keyed):
    if estimator == "dreg" and TorchVersion(torch.__version__) < "2.13":
        pytest.skip(f"torch {torch.__version__} does not compile the hook of the doubly reparameterized gradient")
    torch.compiler.reset()
    model, x = vf.mlp_vae((1, 8, 8), 6, (32,)).to(device), batch(4, device)
    key = key_of(3, 1, device) if keyed else None

    def loss(x):
        weights = vf.log_weights(model.decode, x, *model.encode(x), num_samples=5, key=key, estimator=estimator)
        return -vf.importance_weighted_bound(weights)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = []
    for call in (loss, compiled):
        torch.manual_seed(4)
        value = call(x)
        results.append((value, torch.autograd.grad(value, list(model.parameters()))))
    if keyed or device.type == "cpu":  # the default generator of a GPU is read otherwise inside a graph
        torch.testing.assert_close(results[1], results[0])
    assert results[1][0].isfinite()
    torch.compiler.reset()


@pytest.mark.parametrize("estimator", ["standard", "dreg"])
def test_gradients_by_transforms(device, estimator):
    x, mu, logvar, weight = small_problem(device)

    def bound(mu):
        weights = vf.log_weights(
            linear_decoder(weight), x, mu, logvar, num_samples=5, key=key_of(5, 3, device), estimator=estimator
        )
        return vf.importance_weighted_bound(weights)

    leaf = mu.clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(bound)(mu), torch.autograd.grad(bound(leaf), leaf)[0])


def test_a_generator_decides_the_samples(device):
    x, mu, logvar, weight = small_problem(device)
    first, again, other = (
        vf.log_weights(
            linear_decoder(weight), x, mu, logvar, num_samples=3, generator=torch.Generator(device).manual_seed(seed)
        )
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_few_steps_raise_the_bound():
    model, x = vf.mlp_vae((1, 8, 8), 2, (32,)), torch.rand(1, 1, 8, 8).round().expand(32, -1, -1, -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    bounds = []
    for step in range(30):
        weights = vf.log_weights(model.decode, x, *model.encode(x), num_samples=4, key=key_of(1, 1000 * step))
        bound = vf.importance_weighted_bound(weights)
        optimizer.zero_grad()
        (-bound).backward()
        optimizer.step()
        bounds.append(bound.item())
    assert bounds[-1] > bounds[0] + 5.0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1, got 0"),
        ({"num_samples": None}, TypeError, "num_samples must be an integer, got NoneType"),
        ({"num_samples": 2.0}, TypeError, "num_samples must be an integer, got float"),
        ({"estimator": "stl"}, ValueError, "estimator must be one of standard, dreg, got 'stl'"),
        ({"x": torch.ones(3, 4, dtype=torch.uint8)}, TypeError, "x must be float16, bfloat16, float32 or float64"),
        ({"x": torch.ones(2, 4)}, ValueError, "x must have the batch size of mu, 3, got 2"),
        ({"logvar": torch.ones(3, 1)}, ValueError, "logvar must have the shape of mu"),
        ({"key": torch.ones(2)}, TypeError, "key must be uint64"),
        ({"key": key_of(1), "generator": torch.Generator()}, ValueError, "generator and key are two sources"),
        ({"likelihood": lambda recon, target: recon}, ValueError, "likelihood must give one number for each of 6 rows"),
        ({"likelihood": lambda recon, target: 1.0}, TypeError, "likelihood must give a tensor, got float"),
        (
            {"likelihood": vf.GaussianLikelihood},
            TypeError,
            "likelihood must be a function, got the class GaussianLikelihood",
        ),
        ({"decode": "decoder"}, TypeError, "decode must be a function, got str"),
        ({"decode": lambda z: z}, ValueError, "target must have the shape of recon"),
    ],
)
def test_errors(change, error, message):
    mu, logvar = latents((3, 2))
    arguments = {"decode": lambda z: z.repeat(1, 2), "x": torch.rand(3, 4), "mu": mu, "logvar": logvar}
    with pytest.raises(error, match=message):
        vf.log_weights(**{**arguments, "num_samples": 2, **change})


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: vf.GaussianLikelihood(0.0), ValueError, "sigma must be positive and finite, got 0.0"),
        (lambda: vf.GaussianLikelihood(-1.0), ValueError, "sigma must be positive and finite, got -1.0"),
        (lambda: vf.GaussianLikelihood("1"), TypeError, "sigma must be a number, got str"),
        (lambda: vf.LaplaceLikelihood(math.inf), ValueError, "scale must be positive and finite, got inf"),
        (lambda: vf.LaplaceLikelihood(None), TypeError, "scale must be a number, got NoneType"),
        (lambda: vf.BernoulliLikelihood(1), TypeError, "logits must be a bool, got int"),
        (
            lambda: vf.BernoulliLikelihood()(torch.ones(2, DATA), torch.ones(2, 1)),
            ValueError,
            "target must have the shape of recon",
        ),
    ],
)
def test_errors_of_likelihoods(build, error, message):
    with pytest.raises(error, match=message):
        build()
