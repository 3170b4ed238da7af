"""Which way the CUDA kernels move their operands, and that the ends of odd sizes are right: run on the host."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import pytest
import torch
from cuda_emulation.harness import KEY, LOW, assert_agree, emulated, emulating, needs_emulation, on_cpu
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
    check("elbo_loss_with_gradients", (True, True, True, False), *loss, "batchmean")
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


def test_an_objective_is_four_launches(emulation: ctypes.CDLL) -> None:
    """Sampling with the KL, the loss with its gradients, and a backward for each, at the size of MNIST."""
    mu, logvar = pair((128, 20), torch.float32)
    recon, target = pair((128, 784), torch.float32)
    before = emulation.emulated_launches()
    z, kl = emulated("reparameterize_with_kl", mu, logvar, KEY)
    arguments = (recon, target, None, None, kl, 1.0, None, "mse", "batchmean")
    gradients = emulated("elbo_loss_with_gradients", (True, False, False, False), *arguments)[3:6]
    emulated("elbo_loss_backward_", torch.ones(()), *gradients, None, *arguments)
    emulated("reparameterize_backward", z, kl, mu, logvar, KEY, None, (True, True))
    assert emulation.emulated_launches() - before == 4
