"""FusedELBOLoss.like against the formulas of the projects, from their sources; and the conversion of beta."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from helpers import eager
from helpers.inputs import images, latents
from peer_losses import LOSSES as PEER_LOSSES
from torch import Tensor

import vae_fused as vf
from vae_fused.presets import PRESETS, SCALES

on_formulas = pytest.mark.parametrize(("name", "recon_loss"), PEER_LOSSES)
shapes = pytest.mark.parametrize(
    ("data", "latent"), [((6, 3, 8, 8), (6, 5)), ((6, 2, 64), (6, 4, 16))], ids=["image", "audio"]
)


def operands_of(data=(6, 3, 8, 8), latent=(6, 5), dtype=torch.float32, device="cpu"):
    recon, target = images(data, dtype, device)
    return recon.sigmoid(), target, *latents(latent, dtype, device)  # probabilities, which suit every loss


@on_formulas
@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_number_and_gradients_of_the_project(device, name, recon_loss, data, latent, dtype):
    ours = eager.leaves(*operands_of(data, latent, dtype, device))
    theirs = eager.leaves(*ours, dtype=torch.float64)
    loss = vf.FusedELBOLoss.like(name, recon_loss=recon_loss)(*ours)
    expected = PEER_LOSSES[name, recon_loss](*theirs)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    loss.backward()
    expected.backward()
    for mine, other in zip(ours, theirs, strict=True):
        size = float(other.grad.abs().max())
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-5, atol=1e-6 * size)


@on_formulas
def test_beta_is_on_the_scale_of_the_project(device, name, recon_loss):
    operands = operands_of(dtype=torch.float64, device=device)
    expected = PEER_LOSSES[name, recon_loss](*operands, beta=0.7)
    criterion = vf.FusedELBOLoss.like(name, recon_loss=recon_loss, beta=0.7)
    assert criterion.beta == 0.7
    torch.testing.assert_close(criterion(*operands), expected)
    criterion = vf.FusedELBOLoss.like(name, recon_loss=recon_loss)
    assert criterion.beta == PRESETS[name].beta
    criterion.beta = torch.tensor(0.7, device=device, requires_grad=True)
    loss = criterion(*operands)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, criterion.beta)
    without = PEER_LOSSES[name, recon_loss](*operands, beta=0.0)
    torch.testing.assert_close(gradient.double(), (expected - without) / 0.7, rtol=1e-4, atol=0)


@on_formulas
def test_terms_are_on_the_scale_of_the_project(device, name, recon_loss):
    operands = operands_of((6, 2, 64), (6, 4, 16), torch.float64, device)
    terms = vf.FusedELBOLoss.like(name, recon_loss=recon_loss)(*operands, return_terms=True)
    reconstruction = PEER_LOSSES[name, recon_loss](*operands, beta=0.0)
    torch.testing.assert_close(terms.reconstruction, reconstruction)
    torch.testing.assert_close(terms.loss, PEER_LOSSES[name, recon_loss](*operands))
    torch.testing.assert_close(terms.loss, terms.reconstruction + PRESETS[name].beta * terms.kl)


def test_sigma_of_latent_diffusion_is_learned(device):
    operands = operands_of(dtype=torch.float64, device=device)
    criterion = vf.FusedELBOLoss.like("latent-diffusion").to(device, torch.float64)
    (log_sigma,) = criterion.parameters()
    assert log_sigma == 0.0
    with torch.no_grad():
        log_sigma.fill_(0.3)
    loss = criterion(*operands)
    expected = PEER_LOSSES["latent-diffusion", "laplace_nll"](*operands, log_sigma=log_sigma)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, log_sigma)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)
    first, second = (vf.FusedELBOLoss.like("latent-diffusion") for _ in range(2))
    assert first.log_sigma is not second.log_sigma


@pytest.mark.parametrize("value", [0.4, -7.0])
def test_given_sigma_of_sigma_vae_has_the_soft_floor_too(device, value):
    recon, x, mu, logvar = operands_of(dtype=torch.float64, device=device)
    log_sigma = torch.tensor(value, dtype=torch.float64, device=device, requires_grad=True)
    clipped = -6 + torch.nn.functional.softplus(log_sigma + 6)
    nll = -torch.distributions.Normal(recon, clipped.exp()).log_prob(x)
    expected = nll.sum() + vf.kl_divergence(mu, logvar, reduction="sum")
    loss = vf.FusedELBOLoss.like("sigma-vae", log_sigma=torch.nn.Parameter(log_sigma.detach().clone()))
    torch.testing.assert_close(loss(recon, x, mu, logvar), expected)
    (gradient,) = torch.autograd.grad(loss(recon, x, mu, logvar), loss.log_sigma)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, log_sigma)[0])


def test_recon_weight_multiplies_that_of_the_project(device):
    operands = operands_of(device=device)
    once = vf.FusedELBOLoss.like("pytorch-vae")(*operands, return_terms=True)
    twice = vf.FusedELBOLoss.like("pytorch-vae", recon_weight=2.0)(*operands, return_terms=True)
    torch.testing.assert_close(twice.reconstruction, 2 * once.reconstruction)
    torch.testing.assert_close(twice.kl, once.kl)


def test_kl_of_the_sampling_where_it_is_summed(device):
    recon, x, mu, logvar = operands_of(device=device)
    _, kl = vf.reparameterize_with_kl(mu, logvar)
    for name in ("pythae", "pytorch-vae"):
        criterion = vf.FusedELBOLoss.like(name)
        torch.testing.assert_close(criterion(recon, x, kl=kl), criterion(recon, x, mu, logvar))
    for name, over in (("lightning-bolts", "elements"), ("stable-audio", "positions")):
        with pytest.raises(
            ValueError, match=f"the KL of {name} is a mean over latent {over}, whose number kl does not"
        ):
            vf.FusedELBOLoss.like(name, recon_loss="mse")(recon, x, kl=kl)


def test_copies_pickles_and_repr():
    criterion = vf.FusedELBOLoss.like("pytorch-vae")
    operands = operands_of()
    for double in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert torch.equal(double(*operands), criterion(*operands))
    assert isinstance(criterion, vf.FusedELBOLoss)
    assert repr(criterion) == (
        "PeerELBOLoss(like='pytorch-vae', beta=0.00025, recon_loss='mse', reduction='batchmean')"
    )


def test_settings_of_the_module(device):
    recon, _, mu, logvar = operands_of(device=device)
    x = torch.randint(0, 256, recon.shape, dtype=torch.uint8, device=device)
    criterion = vf.FusedELBOLoss.like("pythae", target_scale=1 / 255)
    torch.testing.assert_close(
        criterion(recon, x, mu, logvar), PEER_LOSSES["pythae", "mse"](recon, x / 255, mu, logvar)
    )


def test_empty_event_and_batch(device):
    mu = torch.zeros(2, 0, device=device)
    x = torch.zeros(2, 0, device=device)
    assert vf.FusedELBOLoss.like("lightning-bolts")(x, x, mu, mu).isnan()
    assert vf.FusedELBOLoss.like("pythae")(x, x, mu, mu) == 0


@pytest.mark.parametrize("name", PRESETS)
def test_compiles_without_a_break(device, name):
    operands = operands_of(device=device)
    criterion = vf.FusedELBOLoss.like(name)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*operands), criterion(*operands))


def test_bad_arguments():
    names = ", ".join(PRESETS)
    with pytest.raises(ValueError, match=f"name must be one of {names}, got 'keras'"):
        vf.FusedELBOLoss.like("keras")
    with pytest.raises(ValueError, match="recon_loss must be one of mse, bce, got 'l1'"):
        vf.FusedELBOLoss.like("pythae", recon_loss="l1")
    with pytest.raises(TypeError, match="beta must be a float"):
        vf.FusedELBOLoss.like("pythae", beta="1")
    with pytest.raises(TypeError, match=r"^reduction is the project's, 'batchmean' for 'pythae': it cannot be given$"):
        vf.FusedELBOLoss.like("pythae", reduction="sum")
    criterion = vf.FusedELBOLoss.like("lightning-bolts")
    x = torch.zeros(2, 3)
    with pytest.raises(TypeError, match="recon must be a tensor, got list"):
        criterion([0.0], x, x, x)
    with pytest.raises(TypeError, match="mu must be a tensor, got int"):
        criterion(x, x, 1, x)
    with pytest.raises(ValueError, match="the KL needs both mu and logvar, or kl"):
        criterion(x, x)


# ---- convert_beta ---------------------------------------------------------------------------------------------------

# Summed squared error R and KL K of a batch of B items of D data elements, and latents of L elements in T positions.
LOSSES: dict[str, Callable[..., Tensor]] = {
    "sum": lambda R, K, B, D, L, T, beta: R + beta * K,
    "batchmean": lambda R, K, B, D, L, T, beta: (R + beta * K) / B,
    "half_mse": lambda R, K, B, D, L, T, beta: (0.5 * R + beta * K) / B,
    "mean_recon": lambda R, K, B, D, L, T, beta: R / (B * D) + beta * K / B,
    "mean": lambda R, K, B, D, L, T, beta: R / (B * D) + beta * K / (B * L),
    "per_position": lambda R, K, B, D, L, T, beta: R / (B * D) + beta * 2 * K / (B * T),
}


@pytest.mark.parametrize("to", LOSSES)
@pytest.mark.parametrize("from_", LOSSES)
def test_converted_beta_gives_a_multiple_of_the_same_loss(from_, to):
    sizes = {"B": 6, "D": 48, "L": 20, "T": 5}
    converted = vf.convert_beta(0.3, from_, to, 48, 20, 5)

    def slopes(name: str, beta: float) -> tuple[float, float]:
        R, K = torch.tensor(7.0, dtype=torch.float64, requires_grad=True), torch.tensor(2.0, requires_grad=True)
        by_recon, by_kl = torch.autograd.grad(LOSSES[name](R=R, K=K, beta=beta, **sizes), (R, K))
        return float(by_recon), float(by_kl)

    before, after = slopes(from_, 0.3), slopes(to, converted)
    assert after[1] / after[0] == pytest.approx(before[1] / before[0], rel=1e-6)
    assert vf.convert_beta(converted, to, from_, 48, 20, 5) == pytest.approx(0.3, rel=1e-12)


def test_the_scales_of_the_projects():
    assert set(LOSSES) == set(SCALES)
    assert vf.convert_beta(1.0, "pythae", "sum", 784, 16) == 2.0
    assert vf.convert_beta(0.00025, "pytorch-vae", "sum", 12288, 128) == pytest.approx(3.072)
    assert vf.convert_beta(0.1, "lightning-bolts", "sum", 3072, 256) == pytest.approx(1.2)
    assert vf.convert_beta(1.0, "pytorch-examples", "batchmean", 784, 20) == 1.0
    assert vf.convert_beta(1e-4, "stable-audio", "sum", 131072, 2048, 32) == pytest.approx(1e-4 * 2 / 32 * 131072)


def test_reduction_mean_of_the_function_is_the_scale_mean(device):
    recon, x, mu, logvar = operands_of(device=device)
    loss = vf.elbo_loss(recon, x, mu, logvar, beta=0.3, reduction="mean")
    summed = vf.elbo_loss(recon, x, mu, logvar, beta=vf.convert_beta(0.3, "mean", "batchmean", 192, 5))
    torch.testing.assert_close(loss, summed / 192)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("1", "sum", "mean", 1, 1), TypeError, "beta must be a number, got str"),
        ((1.0, "sums", "mean", 1, 1), ValueError, "from_ must be one of sum, batchmean, .*, got 'sums'"),
        ((1.0, "sum", "means", 1, 1), ValueError, "to must be one of sum, batchmean, .*, got 'means'"),
        ((1.0, "sum", "mean", 1.5, 1), TypeError, "event_numel must be an integer, got float"),
        ((1.0, "sum", "mean", 1, 0), ValueError, "latent_numel must be at least 1, got 0"),
        ((1.0, "sum", "mean", 1, 1, True), TypeError, "latent_positions must be an integer, got bool"),
        ((1.0, "sum", "stable-audio", 1, 1), ValueError, "latent_positions must be given for the scale per_position"),
    ],
)
def test_bad_arguments_of_the_conversion(arguments, error, message):
    with pytest.raises(error, match=message):
        vf.convert_beta(*arguments)


def test_zero_and_infinite_beta_stay():
    assert vf.convert_beta(0.0, "sum", "mean", 4, 2) == 0.0
    assert vf.convert_beta(math.inf, "sum", "mean", 4, 2) == math.inf


@on_formulas
def test_a_shape_of_the_kl_is_on_the_scale_of_the_project(device, name, recon_loss):
    operands = operands_of(dtype=torch.float64, device=device)
    plain = vf.FusedELBOLoss.like(name, recon_loss=recon_loss)(*operands)
    # Free bits of 0 change nothing; a capacity of 0 neither, as the KL is positive.
    for shaping in (vf.FreeBits(0.0, per="total"), vf.Capacity(0.0)):
        criterion = vf.FusedELBOLoss.like(name, recon_loss=recon_loss, kl_shaping=shaping)
        torch.testing.assert_close(criterion(*operands), plain)
    shaped = vf.FusedELBOLoss.like(name, recon_loss=recon_loss, kl_shaping=vf.FreeBits(1e4, per="total"))
    assert shaped(*operands) > plain
