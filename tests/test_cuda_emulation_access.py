"""Which way the CUDA kernels move their operands, and that the ends of odd sizes are right: run on the host."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cuda_emulation.harness import KEY, LOW, assert_agree, emulated, emulating, layouts, needs_emulation, on_cpu
from helpers.launches import launching
from torch import Tensor

pytestmark = needs_emulation

SIZES = [(1, 8), (1, 3), (1, 9), (2, 7), (3, 20), (5, 4099), (7, 1001), (1, 8193), (64, 11), (9, 4, 33)]


@pytest.fixture(autouse=True)
def emulation() -> Iterator[ctypes.CDLL]:
    with emulating() as library:
        yield library


def pair(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mu, logvar = (0.5 * torch.randn((2, *shape), generator=generator, dtype=torch.float64)).to(dtype).unbind()
    logvar = logvar.clone()  # with an aligned base of its own, whatever the size
    return mu, logvar


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("shape", SIZES)
def test_contiguous_operands_of_any_size_move_in_vectors(
    emulation: ctypes.CDLL, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    mu, logvar = pair(shape, dtype)

    def check(name: str, *arguments: object, noisy: bool = False, **keywords: object) -> None:
        actual = emulated(name, *arguments, **keywords)
        assert b"VectorAccess" in emulation.emulated_launcher()
        assert_agree(actual, on_cpu(name, *arguments, **keywords), noisy)

    check("standard_normal", KEY, shape, noisy=True, dtype=dtype)
    check("reparameterize", mu, logvar, KEY, noisy=True)
    check("reparameterize_with_kl", mu, logvar, KEY, noisy=True)
    kl = torch.ones(shape[0])
    check("reparameterize_backward", mu, None, None, logvar, KEY, None, (True, True), noisy=True)
    check("reparameterize_backward", mu, kl, mu, logvar, KEY, None, (True, True), noisy=True)
    for reduction in ("sum", "sample", "none"):
        check("kl_divergence", mu, logvar, None, None, reduction)
        check("kl_divergence", mu, logvar, logvar, mu, reduction)
    loss = (mu, logvar, mu, logvar, None, 0.5, None, "mse")
    check("elbo_loss", *loss, "sample")
    check("elbo_loss_with_gradients", (True, True, True, False, False), *loss, "batchmean")
    check("elbo_loss_backward", kl, (True, True, True, True, False, False), *loss, "sample")


@pytest.mark.parametrize(
    ("cut", "way"),
    [
        (lambda tensor: tensor[:, :32], b"VectorAccess<8, true>"),  # rows of whole vectors
        (lambda tensor: tensor[:, :30], b"GenericAccess"),  # rows that end inside of a vector
        (lambda tensor: tensor.flatten()[1 : 1 + 8 * 60].view(8, 60), b"GenericAccess"),  # a misaligned base
        (lambda tensor: tensor.t(), b"GenericAccess"),
    ],
)
def test_other_layouts_take_the_way_that_they_need(
    emulation: ctypes.CDLL, cut: Callable[[Tensor], Tensor], way: bytes
) -> None:
    mu, logvar = (cut(tensor) for tensor in pair((8, 64), torch.bfloat16))
    assert_agree(emulated("reparameterize", mu, logvar, KEY), on_cpu("reparameterize", mu, logvar, KEY), True)
    assert way in emulation.emulated_launcher()


def test_noise_that_does_not_begin_a_block_takes_the_general_way(emulation: ctypes.CDLL) -> None:
    mu, logvar = pair((3, 9), torch.float32)
    keys = torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=torch.uint64)
    for key, samples in [(keys, None), (KEY, 2)]:
        arguments = (mu, logvar, key)
        z = emulated("reparameterize", *arguments, num_samples=samples)
        assert b"GenericAccess" in emulation.emulated_launcher()
        assert_agree(z, on_cpu("reparameterize", *arguments, num_samples=samples), True)


@pytest.mark.parametrize("latent_dtype", [*LOW, torch.float64])
@pytest.mark.parametrize("latent_shape", [(6, 24), (6, 20), (6, 3), (6, 1027), (6, 2, 4, 3)])
def test_latents_of_the_objective(latent_dtype: torch.dtype, latent_shape: tuple[int, ...]) -> None:
    """Vectors of any type beside data of any other, with rows, misaligned bases and odd ends."""
    recon, target = pair((6, 40), torch.float32)
    wide = latent_dtype == torch.float64
    mu, logvar = pair(latent_shape, latent_dtype)
    both = torch.cat([mu, logvar], dim=1)
    rows = both.chunk(2, dim=1)
    shifted = tuple(torch.cat([t.flatten()[:1], t.flatten()])[1:].view(latent_shape) for t in (mu, logvar))
    for latents in ((mu, logvar), rows, shifted):
        for reduction in ("sum", "sample"):
            arguments = (recon, target, *latents, None, 0.5, None, "mse", reduction)
            assert_agree(emulated("elbo_loss", *arguments), on_cpu("elbo_loss", *arguments), mixed=wide)
            grad = torch.ones(6 if reduction == "sample" else ())
            backward = (grad, (True, False, True, True, False, False), *arguments)
            assert_agree(emulated("elbo_loss_backward", *backward), on_cpu("elbo_loss_backward", *backward), mixed=wide)


def test_normals_keep_their_bound_with_the_largest_error_of_every_approximation() -> None:
    """The bound that docs/numerics.md gives for a GPU; the emulated approximations are as wrong as they may be."""
    normals = emulated("standard_normal", KEY, (1 << 18,), dtype=torch.float32)
    exact = on_cpu("standard_normal", KEY, (1 << 18,), dtype=torch.float32)
    assert (normals - exact).abs().max() < 4e-6


def launches(emulation: ctypes.CDLL, function: Callable[[], object]) -> tuple[int, list[str]]:
    """Of our kernels, and what ATen would launch besides inside of the operators."""
    before = emulation.emulated_launches()
    names = launching(function, inside=True)
    return emulation.emulated_launches() - before, [name for name in names if not name.startswith("vae_fused::")]


TERMS: dict[str, dict[str, Any]] = {
    "mse": {},
    "weight": {"weight": torch.rand(128, 784)},
    "bce_with_logits": {},
    "gaussian_nll": {"log_sigma_value": 0.5},
    "laplace_nll": {"log_sigma": torch.zeros(())},
    "gaussian_nll with an element's": {"log_sigma": torch.zeros(128, 784)},
}


@pytest.mark.parametrize("incoming", [1.0, 3.0])
@pytest.mark.parametrize("term", TERMS)
def test_an_objective_is_four_launches(emulation: ctypes.CDLL, term: str, incoming: float) -> None:
    """Sampling with the KL, the loss with its gradients, and a backward for each, at the size of MNIST."""
    mu, logvar = pair((128, 20), torch.float32)
    recon, target = pair((128, 784), torch.float32)
    settings, grad_loss = TERMS[term], torch.tensor(incoming)
    recon_loss = "mse" if term == "weight" else term.split()[0]
    mask = (True, False, False, True, "log_sigma" in settings)

    def step() -> None:
        z, kl = emulated("reparameterize_with_kl", mu, logvar, KEY)
        arguments = (recon, target, None, None, kl, 1.0, None, recon_loss, "batchmean")
        gradients = emulated("elbo_loss_with_gradients", mask, *arguments, **settings)[3:]
        emulated("elbo_loss_backward_", grad_loss, *gradients, *arguments, **settings)
        emulated("reparameterize_backward", z, gradients[3], mu, logvar, KEY, None, (True, True))

    # Deterministic algorithms fill what at::empty gives.
    torch.use_deterministic_algorithms(False)
    assert launches(emulation, step) == (4, [])


@pytest.mark.parametrize("incoming", [1.0, 3.0])
def test_an_objective_in_place_is_four_launches(emulation: ctypes.CDLL, incoming: float) -> None:
    mu, logvar = pair((128, 20), torch.float32)
    recon, target = pair((128, 784), torch.float32)
    grad_loss = torch.tensor(incoming)

    def step() -> None:
        z, kl = emulated("reparameterize_with_kl", mu, logvar, KEY)
        arguments = (recon, target, None, None, kl, 1.0, None, "mse", "batchmean")
        grad_kl = emulated("elbo_loss_", (False, False, True, False), *arguments)[5]
        emulated("scale_gradients_", [recon, grad_kl], grad_loss)
        emulated("reparameterize_backward", z, grad_kl, mu, logvar, KEY, None, (True, True))

    torch.use_deterministic_algorithms(False)
    assert launches(emulation, step) == (4, [])


@pytest.mark.parametrize("dtype", [*LOW, torch.float64], ids=str)
@pytest.mark.parametrize("factor_dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("factor", [1.0, -3.5])
def test_gradients_are_scaled_where_they_are(
    emulation: ctypes.CDLL, dtype: torch.dtype, factor_dtype: torch.dtype, factor: float
) -> None:
    """More than fit one launch, in every layout: only the elements of the tensors change."""
    made = [layout for shape in [(3, 5), (2, 16), (4, 2100), (2, 4, 4, 8)] for layout in layouts(shape, dtype, 1)]
    made = [tensor for tensor in made if 0 not in tensor.stride()] + [torch.ones((), dtype=dtype), torch.ones(0)]
    storages = [tensor.untyped_storage().clone() for tensor in made]
    changed = [
        torch.empty(0, dtype=tensor.dtype).set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
        for tensor, storage in zip(made, storages, strict=True)
    ]
    before = emulation.emulated_launches()
    emulated("scale_gradients_", changed, torch.tensor(factor, dtype=factor_dtype))
    assert emulation.emulated_launches() - before == -(-(len(made) - 1) // 5)
    for one, original in zip(changed, made, strict=True):
        expected = torch.empty(0, dtype=one.dtype).set_(
            original.untyped_storage().clone(), one.storage_offset(), one.shape, one.stride()
        )
        on_cpu("scale_gradients_", [expected], torch.tensor(factor, dtype=factor_dtype))
        assert torch.equal(one, expected)
        whole, whole_expected = (
            torch.empty(0, dtype=one.dtype).set_(tensor.untyped_storage()) for tensor in (one, expected)
        )
        assert torch.equal(whole, whole_expected)


def test_scaling_ends_where_the_rows_do() -> None:
    rows = torch.ones(4, 32, dtype=torch.bfloat16)
    emulated("scale_gradients_", [rows[:, 8:24]], torch.tensor(2.0))
    assert (rows[:, 8:24] == 2.0).all()
    assert rows.sum() == 4 * (32 + 16)
