"""The CUDA code of sampling and of the KL divergence, run on the host and compared with the CPU operators.

``cuda_emulation`` gives the kernels threads, blocks, barriers and shuffles on the CPU, so that every launch, layout and
sum is really executed on a machine without a GPU. The noise words are the same and so are the formulas: values agree to
rounding.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator

import pytest
import torch
from cuda_emulation.harness import DTYPES, KEY, assert_agree, emulated, emulating, latents, needs_emulation, on_cpu

pytestmark = needs_emulation


@pytest.fixture(autouse=True)
def emulation() -> Iterator[ctypes.CDLL]:
    with emulating() as library:
        yield library


SHAPES = [(3, 5), (2, 16), (5, 8, 3), (2, 4, 4, 8), (3, 2, 1, 3, 5), (2, 3, 2, 3, 2, 3), (1, 1)]
KEYS = [KEY, torch.tensor([[7, 0], [2**64 - 1, 2**64 - 2], [1, 2**32 - 1]], dtype=torch.uint64)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1,), (7,), (3, 9), (3, 16), (3, 2051), (9000,)])
def test_standard_normal(size: tuple[int, ...], dtype: torch.dtype) -> None:
    for key in KEYS if size[0] == 3 else KEYS[:1]:
        assert_agree(
            emulated("standard_normal", key, size, dtype=dtype), on_cpu("standard_normal", key, size, dtype=dtype), True
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_reparameterize_and_its_backward(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    per_item = torch.stack([torch.arange(shape[0]), torch.arange(shape[0]) * 7], dim=1).to(torch.uint64)
    for mu, logvar in latents(shape, dtype):
        for key, samples in itertools.product([KEY, per_item], [None, 1, 3]):
            z = emulated("reparameterize", mu, logvar, key, num_samples=samples)
            assert_agree(z, on_cpu("reparameterize", mu, logvar, key, num_samples=samples), True)
            arguments = (z, None, None, logvar, key, samples, (True, True))
            assert_agree(
                emulated("reparameterize_backward", *arguments), on_cpu("reparameterize_backward", *arguments), True
            )


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_laid_out_otherwise_over_the_samples(dtype: torch.dtype) -> None:
    logvar = torch.linspace(-1, 1, 48).view(3, 16).to(dtype)
    grads = torch.linspace(-2, 2, 240).view(3, 5, 16).to(dtype)
    for grad_z in (grads.transpose(0, 1), grads[:1, 0].expand(5, 3, 16), grads.repeat(2, 1, 1)[:5, :3]):
        arguments = (grad_z, None, None, logvar, KEY, 5, (True, True))
        assert_agree(
            emulated("reparameterize_backward", *arguments), on_cpu("reparameterize_backward", *arguments), True
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 64), (40, 96), (2, 1025), (3, 5000), (2, 4, 33, 32)])
def test_reparameterize_with_kl_and_its_backward(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    per_item = torch.stack([torch.arange(shape[0]), torch.arange(shape[0]) * 7], dim=1).to(torch.uint64)
    for (mu, logvar), key in zip(latents(shape, dtype), itertools.cycle([KEY, per_item]), strict=False):
        z, kl = emulated("reparameterize_with_kl", mu, logvar, key)
        assert_agree((z, kl), on_cpu("reparameterize_with_kl", mu, logvar, key), True)
        for grad_z, grad_kl, mask in [
            (z, kl, (True, True)),
            (None, kl[:1].expand_as(kl), (True, True)),
            (z, kl, (False, True)),
        ]:
            arguments = (grad_z, grad_kl, mu, logvar, key, None, mask)
            assert_agree(
                emulated("reparameterize_backward", *arguments), on_cpu("reparameterize_backward", *arguments), True
            )


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize(("dtype", "lanes"), [(torch.float32, 4), (torch.bfloat16, 4), (torch.float64, 2)])
def test_generator_reserves_the_blocks_it_uses(
    emulation: ctypes.CDLL, dtype: torch.dtype, lanes: int, captured: bool
) -> None:
    mu, logvar = (torch.randn(3, 7).to(dtype) for _ in range(2))
    emulation.emulate_generator(2**40 + 3, 1000, captured)
    blocks = 1000 // 4
    for samples in (None, 2):
        z, key = emulated("reparameterize", mu, logvar, overload="generator", num_samples=samples)
        assert key.tolist() == [2**40 + 3, blocks]
        assert torch.equal(z, emulated("reparameterize", mu, logvar, key, num_samples=samples))
        blocks += -(-z.numel() // lanes)
        assert emulation.emulated_offset() == 4 * blocks
    z, kl, key = emulated("reparameterize_with_kl", mu, logvar, overload="generator")
    assert key.tolist() == [2**40 + 3, blocks]
    for one, other in zip((z, kl), emulated("reparameterize_with_kl", mu, logvar, key), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (40, 96), (3, 5000), (2, 4, 33, 32)])
@pytest.mark.parametrize("reduction", ["batchmean", "sum", "mean", "sample", "none"])
def test_kl_divergence_and_its_backward(shape: tuple[int, ...], dtype: torch.dtype, reduction: str) -> None:
    priors = [(None, None), (torch.full(shape[1:], 0.3, dtype=dtype), None), (None, torch.tensor(0.4, dtype=dtype))]
    priors.append(tuple((torch.rand(shape) - 0.5).to(dtype) for _ in range(2)))
    for (mu, logvar), prior in zip(latents(shape, dtype), itertools.cycle(priors), strict=False):
        value = emulated("kl_divergence", mu, logvar, *prior, reduction)
        assert_agree(value, on_cpu("kl_divergence", mu, logvar, *prior, reduction))
        grad = torch.full_like(value, 0.75) if reduction != "sample" else torch.tensor(0.75).expand_as(value)
        for mask in [(True,) * 4, (False, True, True, False)]:
            arguments = (grad, mask, mu, logvar, *prior, reduction)
            assert_agree(emulated("kl_divergence_backward", *arguments), on_cpu("kl_divergence_backward", *arguments))


def test_errors_are_those_of_the_cpu() -> None:
    mu = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="logvar must have the shape of mu"):
        emulated("reparameterize", mu, mu[:2], KEY, num_samples=None)
    with pytest.raises(ValueError, match="size must begin with the number of keys"):
        emulated("standard_normal", KEY.expand(3, 2), (2, 4), dtype=torch.float32)
    with pytest.raises(TypeError, match="key must be uint64"):
        emulated("reparameterize_with_kl", mu, mu, KEY.long())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("numel", [16, 5])
def test_kl_alone_of_an_infinite_sigma(numel: int, dtype: torch.dtype) -> None:
    """Where z has no gradient, 0 times sigma is no part of the gradient of the log-variance."""
    mu, logvar = torch.ones(2, 2, numel, dtype=dtype).unbind()
    logvar[0, 0], logvar[1, numel - 1] = torch.inf, -torch.inf
    kl = torch.ones(2)
    expected = torch.expm1(logvar.double()).mul(0.5)
    for options in ({}, {"mask": torch.ones(2, numel)}):
        arguments = (None, kl, mu, logvar, KEY, None, (True, True))
        for run in (emulated, on_cpu):
            _, gradient = run("reparameterize_backward", *arguments, **options)
            torch.testing.assert_close(gradient.double(), expected, rtol=1e-2, atol=0.0)
    nothing = (None, None, None, logvar, KEY, None, (True, True))
    for run in (emulated, on_cpu):
        assert all((gradient == 0).all() for gradient in run("reparameterize_backward", *nothing))


def test_a_generator_of_another_device_is_refused_for_empty_tensors_too() -> None:
    empty = torch.empty(0, 4, device="meta")
    for name in ("reparameterize", "reparameterize_with_kl"):
        with pytest.raises(ValueError, match=r"^generator must be on the device of mu, meta, got cpu"):
            emulated(name, empty, empty, overload="generator", generator=torch.Generator())
    with pytest.raises(ValueError, match=r"^generator must be on the device of mu, meta, got cpu"):
        emulated(
            "packed_reparameterize_with_kl",
            empty,
            overload="generator",
            dim=1,
            logvar_min=-1.0,
            logvar_max=1.0,
            generator=torch.Generator(),
        )
