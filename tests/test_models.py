"""The VAE module and its builders: shapes, training and evaluation, keys, dtypes, copies, compilation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import vae_fused as vf
from vae_fused import reference

BUILDERS: list[Callable[[], vf.VAE]] = [
    lambda: vf.mlp_vae((1, 8, 8), 6, (32,)),
    lambda: vf.conv_vae((1, 8, 8), 6, (4, 8)),
]
both_models = pytest.mark.parametrize("build", BUILDERS, ids=["mlp", "conv"])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    # Layers this small gain nothing from a second thread, and wait for it on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_key(seed: int, offset: int = 0) -> Tensor:
    return torch.tensor([seed, offset], dtype=torch.uint64)


def item_keys(count: int) -> Tensor:
    return torch.stack([make_key(7, 100 * item) for item in range(count)])


@pytest.mark.parametrize("input_shape", [5, (7,), (3, 4), (1, 8, 8), (3, 28, 28), (2, 3, 4, 5)])
@pytest.mark.parametrize("hidden_dims", [(16,), (24, 16, 8)])
def test_mlp_shapes(input_shape: int | tuple[int, ...], hidden_dims: tuple[int, ...]) -> None:
    shape = (input_shape,) if isinstance(input_shape, int) else input_shape
    model = vf.mlp_vae(input_shape, 3, hidden_dims)
    out = model(torch.rand(4, *shape))
    assert out.recon.shape == (4, *shape)
    assert out.mu.shape == out.logvar.shape == out.z.shape == (4, 3)
    assert out.kl.shape == (4,)
    assert model.sample(2).shape == (2, *shape)


@pytest.mark.parametrize("channels", [(4,), (4, 6, 8)])
@pytest.mark.parametrize(
    "input_shape", [(1, 8, 8), (1, 9, 8), (3, 28, 28), (1, 29, 31), (2, 15, 33), (3, 64, 64)], ids=str
)
def test_conv_shapes(input_shape: tuple[int, int, int], channels: tuple[int, ...]) -> None:
    model = vf.conv_vae(input_shape, 3, channels)
    x = torch.rand(2, *input_shape)
    assert model.reconstruct(x).shape == x.shape
    assert model.sample(3).shape == (3, *input_shape)
    assert model.loss(x, key=make_key(1)).loss.isfinite()


@both_models
def test_the_default_output_is_a_sigmoid(build: Callable[[], vf.VAE]) -> None:
    model = build()
    last_layer = [module for module in model.decoder if isinstance(module, (nn.Linear, nn.ConvTranspose2d))][-1]
    nn.init.constant_(last_layer.bias, -30.0)
    assert 0 <= model.sample(4).min() <= model.sample(4).max() < 1e-6


def test_no_output_activation_leaves_the_real_line() -> None:
    for model in (
        vf.mlp_vae(4, 2, (8,), output_activation=None),
        vf.conv_vae((1, 4, 4), 2, (3,), output_activation=None),
    ):
        assert not any(isinstance(module, nn.Sigmoid) for module in model.modules())


@both_models
def test_training_mode_samples_with_the_fused_path(build: Callable[[], vf.VAE]) -> None:
    model, x, key = build(), torch.rand(5, 1, 8, 8), make_key(42)
    out = model(x, key=key)
    z, kl = reference.reparameterize_with_kl(out.mu, out.logvar, key=key)
    torch.testing.assert_close(out.z, z)
    torch.testing.assert_close(out.kl, kl)
    torch.testing.assert_close(out.recon, model.decode(out.z))
    assert not torch.equal(out.z, model(x, key=make_key(43)).z)


@both_models
def test_eval_takes_the_mean_and_sample_overrides(build: Callable[[], vf.VAE]) -> None:
    model, x = build(), torch.rand(5, 1, 8, 8)
    trained = model(x, sample=False)
    assert torch.equal(trained.z, trained.mu)
    model.eval()
    out = model(x)
    assert torch.equal(out.z, out.mu)
    torch.testing.assert_close(out.kl, reference.kl_divergence(out.mu, out.logvar, reduction="sample"))
    assert not torch.equal(model(x, sample=True, key=make_key(3)).z, out.mu)


def test_a_generator_decides_the_samples() -> None:
    model, x = vf.mlp_vae(6, 3, (8,)), torch.rand(4, 6)
    first, again, other = (model(x, generator=torch.Generator().manual_seed(seed)).z for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    drawn, redrawn = (model.sample(4, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(drawn, redrawn)


def test_per_item_keys_make_the_sample_independent_of_the_batch() -> None:
    model, x, keys = vf.mlp_vae(6, 5, (8,)), torch.rand(4, 6), item_keys(4)
    whole = model(x, key=keys).z
    for item in range(4):
        alone = model(x[item : item + 1], key=keys[item : item + 1]).z[0]
        torch.testing.assert_close(alone, whole[item])


@both_models
def test_sample_decodes_the_noise_of_the_key(build: Callable[[], vf.VAE]) -> None:
    model, key = build(), make_key(42)
    torch.testing.assert_close(model.sample(3, key=key), model.decode(vf.standard_normal(key, (3, 6))).detach())
    keys = item_keys(3)
    torch.testing.assert_close(model.sample(2, key=keys[1:]), model.sample(3, key=keys)[1:])
    assert not model.sample(2).requires_grad


@both_models
def test_reconstruct_is_the_decoded_mean_in_both_modes(build: Callable[[], vf.VAE]) -> None:
    model, x = build(), torch.rand(3, 1, 8, 8)
    for training in (True, False):
        model.train(training)
        recon = model.reconstruct(x)
        torch.testing.assert_close(recon, model.decode(model.encode(x)[0]).detach())
        assert not recon.requires_grad


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "sample", "mean"])
def test_loss_is_the_objective_of_the_forward_pass(reduction: str) -> None:
    model, x, key = vf.mlp_vae((2, 3), 4, (8,)), torch.rand(5, 2, 3), make_key(9)
    terms = model.loss(x, beta=0.3, reduction=reduction, key=key)
    out = model(x, key=key)
    expected = reference.elbo_loss(out.recon, x, out.mu, out.logvar, beta=0.3, reduction=reduction, return_terms=True)
    for ours, theirs in zip(terms, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert terms.loss.requires_grad
    assert not terms.reconstruction.requires_grad
    assert not terms.kl.requires_grad


@both_models
def test_gradients_reach_every_parameter_and_match_the_reference(build: Callable[[], vf.VAE]) -> None:
    model, x, key = build().double(), torch.rand(4, 1, 8, 8, dtype=torch.float64), make_key(5)
    model.loss(x, beta=0.5, key=key).loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    mu, logvar = model.encode(x)
    z, kl = reference.reparameterize_with_kl(mu, logvar, key=key)
    expected = torch.autograd.grad(reference.elbo_loss(model.decode(z), x, kl=kl, beta=0.5), list(model.parameters()))
    for gradient, other in zip(gradients, expected, strict=True):
        assert gradient is not None
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, other)


@both_models
def test_a_few_steps_lower_the_loss(build: Callable[[], vf.VAE]) -> None:
    model, x = build(), torch.rand(1, 1, 8, 8).round().expand(32, -1, -1, -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        terms = model.loss(x, key=make_key(1, step))
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
        losses.append(terms.loss.item())
    assert losses[-1] < 0.9 * losses[0]


@both_models
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(build: Callable[[], vf.VAE], dtype: torch.dtype) -> None:
    model, x = build().to(dtype), torch.rand(3, 1, 8, 8, dtype=dtype)
    out = model(x, key=make_key(2))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert out.recon.dtype == out.z.dtype == dtype
    assert out.kl.dtype == wide
    assert model.sample(2, key=make_key(2)).dtype == model.sample(2).dtype == dtype
    terms = model.loss(x)
    assert terms.loss.dtype == wide
    terms.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@both_models
def test_state_dict_and_deepcopy(build: Callable[[], vf.VAE]) -> None:
    model, other, x, key = build(), build(), torch.rand(3, 1, 8, 8), make_key(8)
    assert not torch.equal(model(x, key=key).recon, other(x, key=key).recon)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x, key=key).recon, other(x, key=key).recon)
    clone = copy.deepcopy(model)
    assert torch.equal(clone(x, key=key).recon, model(x, key=key).recon)
    with torch.no_grad():
        clone.mu_head.weight.zero_()
    assert not torch.equal(clone(x, key=key).recon, model(x, key=key).recon)


@both_models
def test_compiles_in_one_graph(build: Callable[[], vf.VAE]) -> None:
    model, x, key = build(), torch.rand(3, 1, 8, 8), make_key(4)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for ours, eager in zip(compiled(x, key=key), model(x, key=key), strict=True):
        torch.testing.assert_close(ours, eager)
    loss = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(loss(x, key=key).loss, model.loss(x, key=key).loss)
    torch.compiler.reset()


def test_feature_dim_is_inferred_from_the_last_linear_layer() -> None:
    encoder = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU())
    model = vf.VAE(encoder, nn.Linear(2, 6), 2)
    assert model.mu_head.in_features == model.logvar_head.in_features == 9
    assert model(torch.rand(4, 6)).recon.shape == (4, 6)


def test_feature_dim_of_a_convolutional_encoder_comes_with_the_first_batch() -> None:
    # The Linear layer stands before the convolution: its width is not that of the features.
    encoder = nn.Sequential(nn.Linear(5, 5), nn.Conv2d(1, 2, 3))
    decoder = nn.Sequential(nn.Linear(3, 25), nn.Unflatten(1, (1, 5, 5)))
    model = vf.VAE(encoder, decoder, 3)
    clone = copy.deepcopy(model)
    assert model(torch.rand(4, 1, 5, 5)).recon.shape == (4, 1, 5, 5)
    assert model.mu_head.in_features == 2 * 3 * 3
    assert clone.sample(2).shape == (2, 1, 5, 5)
    given = vf.VAE(encoder, decoder, 3, feature_dim=18)
    assert given(torch.rand(4, 1, 5, 5)).mu.shape == (4, 3)
