"""What the VAE module and its builders refuse, and in which words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.inputs import key_of
from torch import nn

import vae_fused as vf


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: vf.VAE(len, nn.Identity(), 2), TypeError, "encoder"),
        (lambda: vf.VAE(nn.Identity(), None, 2), TypeError, "decoder"),
        (lambda: vf.VAE(nn.Linear(2, 2), nn.Identity(), 0), ValueError, "latent_dim"),
        (lambda: vf.VAE(nn.Linear(2, 2), nn.Identity(), 2.0), TypeError, "latent_dim"),
        (lambda: vf.VAE(nn.Linear(2, 2), nn.Identity(), 2, feature_dim=-1), ValueError, "feature_dim"),
        (lambda: vf.mlp_vae(()), ValueError, "input_shape"),
        (lambda: vf.mlp_vae("28"), TypeError, "input_shape"),
        (lambda: vf.mlp_vae((1, 0)), ValueError, "input_shape"),
        (lambda: vf.mlp_vae(4, hidden_dims=()), ValueError, "hidden_dims"),
        (lambda: vf.mlp_vae(4, hidden_dims=400), TypeError, "hidden_dims"),
        (lambda: vf.mlp_vae(4, 0), ValueError, "latent_dim"),
        (lambda: vf.mlp_vae(4, output_activation="relu"), ValueError, "output_activation"),
        (lambda: vf.conv_vae((8, 8)), ValueError, "input_shape"),
        (lambda: vf.conv_vae((1, 8, 8), channels=()), ValueError, "channels"),
        (lambda: vf.conv_vae((1, 8, 3)), ValueError, "input_shape"),
        (lambda: vf.conv_vae((1, 8, 8), 2.5), TypeError, "latent_dim"),
        (lambda: vf.conv_vae((1, 8, 8), output_activation="tanh"), ValueError, "output_activation"),
        (lambda: vf.mlp_vae(4)(torch.zeros(2, 4, dtype=torch.int64)), TypeError, "x must"),
        (lambda: vf.mlp_vae(4)([0.0]), TypeError, "x must"),
        (lambda: vf.mlp_vae(4).decode(torch.zeros(2, 3)), ValueError, "z must"),
        (lambda: vf.mlp_vae(4).sample(0), ValueError, "n must"),
        (lambda: vf.mlp_vae(4).sample(2, key=torch.zeros(2)), TypeError, "key must"),
        (lambda: vf.mlp_vae(4).sample(2, key_of(1), torch.Generator()), ValueError, "generator and key"),
        (lambda: vf.mlp_vae(4).loss(torch.zeros(2, 4), reduction="none"), ValueError, "reduction"),
        (lambda: vf.mlp_vae(4).loss(torch.zeros(2, 4), beta="1"), TypeError, "beta"),
        (
            lambda: vf.VAE(nn.Linear(2, 2), nn.Linear(2, 2), 2, fused_output_layer="no"),
            TypeError,
            "fused_output_layer must be a bool, got str",
        ),
        (
            lambda: vf.mlp_vae(4).loss(torch.zeros(2, 4), recon_loss="gaussian_nll"),
            ValueError,
            "recon_loss must be one of mse, l1, smooth_l1, bce_with_logits, bce, got 'gaussian_nll'",
        ),
        *(
            (
                lambda decoder=decoder: vf.VAE(nn.Linear(2, 2), decoder, 2).loss(
                    torch.rand(3, 2), recon_loss="bce_with_logits"
                ),
                ValueError,
                "recon_loss must be bce with a decoder that ends in a Sigmoid, got 'bce_with_logits'",
            )
            for decoder in (
                nn.Sigmoid(),
                nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Unflatten(1, (2,))),
                nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Sigmoid())),
            )
        ),
        (lambda: vf.mlp_vae(4)(torch.zeros(2, 4), sample=False, key=3), TypeError, "key must be a tensor, got int"),
        (
            lambda: vf.VAE(nn.LSTM(4, 3), nn.Linear(2, 4), 2)(torch.zeros(2, 4)),
            TypeError,
            "encoder must give a tensor of features, got tuple",
        ),
        (lambda: vf.mlp_vae(np.int64(4)), TypeError, "input_shape must be a sequence of integers, got numpy.int64"),
        (
            lambda: vf.VAE(nn.Linear(2, 2), nn.Identity(), 2, feature_dim=3)(torch.zeros(1, 2)),
            ValueError,
            "feature_dim must be .* 2, got 3",
        ),
    ],
)
def test_errors_name_the_argument(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("argument", ["recon_loss", "reduction"])
def test_a_misspelt_name_is_refused_before_the_encoder_runs(argument: str) -> None:
    encoder = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    model, x = vf.VAE(encoder, nn.Linear(2, 4), 2), torch.rand(5, 4)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=f"^{argument} must be one of .*, got 'MSE'$"):
        model.loss(x, **{argument: "MSE"})
    with pytest.raises(TypeError, match=r"^beta must be a float or a 0-dimensional tensor, got str$"):
        model.loss(x, beta="1")
    assert encoder[1].num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("encoder", "lazy"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.SiLU(), nn.Dropout(0.1), nn.Identity()), False),
        (nn.Sequential(nn.Linear(4, 8), nn.GLU()), True),
        (nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 4)), nn.AvgPool1d(2)), True),
    ],
)
def test_only_layers_that_keep_the_width_are_passed_over(encoder: nn.Module, lazy: bool) -> None:
    model = vf.VAE(encoder, nn.Linear(2, 4), 2)
    assert isinstance(model.mu_head, nn.LazyLinear) is lazy
    assert model(torch.rand(3, 4)).mu.shape == (3, 2)
