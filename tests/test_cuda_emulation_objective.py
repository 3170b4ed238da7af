"""The CUDA code of the objective, and of sums in general, run on the host and compared with the CPU operators.

``cuda_emulation`` gives the kernels threads, blocks, barriers and shuffles on the CPU, so that every launch, layout and
sum is really executed on a machine without a GPU. The noise words are the same and so are the formulas: values agree to
rounding.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cuda_emulation import harness
from cuda_emulation.harness import (
    DTYPES,
    KEY,
    assert_agree,
    emulated,
    emulating,
    latents,
    layouts,
    needs_emulation,
    on_cpu,
)
from torch import Tensor

pytestmark = needs_emulation


@pytest.fixture(autouse=True)
def emulation() -> Iterator[ctypes.CDLL]:
    with emulating() as library:
        yield library


GRIDS = [1, 2, 7]
DATA_SHAPES = [(3, 5), (2, 16), (2, 4, 4, 8), (5, 1500), (3, 2, 40, 64)]
ALL_REDUCTIONS = ["batchmean", "sum", "mean", "sample"]


def objective(
    shape: tuple[int, ...], dtypes: tuple[torch.dtype, torch.dtype, torch.dtype], given_kl: bool, latent_numel: int = 24
) -> Iterator[tuple[Any, ...]]:
    """recon, target, mu, logvar, kl in all layouts."""
    pairs = zip(layouts(shape, dtypes[0], 3), layouts(shape, dtypes[1], 4), strict=True)
    latent_pairs = itertools.cycle(latents((shape[0], latent_numel), dtypes[2]))
    for (recon, target), (mu, logvar) in zip(pairs, latent_pairs, strict=False):
        kl = (mu[:, 0] ** 2) if given_kl else None
        yield (recon, target, None, None, kl) if given_kl else (recon, target, mu, logvar, None)


def copy_in_layout(tensor: Tensor) -> Tensor:
    """A copy with the same strides and alignment, in memory of its own."""
    memory = tensor.untyped_storage().clone()
    return torch.empty(0, dtype=tensor.dtype).set_(memory, tensor.storage_offset(), tensor.shape, tensor.stride())


def check_objective(
    arguments: tuple[Any, ...], beta: float, beta_tensor: Tensor | None, reduction: str, **reading: float
) -> None:
    emulated, on_cpu = (functools.partial(run, **reading) for run in (harness.emulated, harness.on_cpu))
    rest = (beta, beta_tensor, "mse", reduction)
    with_target = arguments[1].is_floating_point()
    mixed = len({tensor.dtype == torch.float64 for tensor in arguments if tensor is not None}) == 2

    def compare(actual: Any, expected: Any) -> None:
        assert_agree(actual, expected, mixed=mixed)

    loss, reconstruction, kl = emulated("elbo_loss", *arguments, *rest)
    expected = on_cpu("elbo_loss", *arguments, *rest)
    compare((loss, reconstruction, kl), expected)
    grad = torch.full_like(loss, -1.5) if reduction != "sample" else torch.tensor(0.5).expand_as(loss)
    for mask in [(True,) * 6, (True, False, False, True, False, False), (False, False, True, False, True, False)]:
        mask = (mask[0], mask[1] and with_target, *mask[2:])
        backward = (grad, mask, *arguments, *rest)
        compare(emulated("elbo_loss_backward", *backward), on_cpu("elbo_loss_backward", *backward))
    if reduction == "sample":
        return
    given = arguments[4] is not None
    for mask in [(True, not given, not given, given, False), (False, False, not given, given, False)]:
        results = emulated("elbo_loss_with_gradients", mask, *arguments, *rest)
        compare(results, on_cpu("elbo_loss_with_gradients", mask, *arguments, *rest))
        buffers = results[3:7]
        for buffer in buffers:
            if buffer is not None:
                buffer.fill_(3.0)  # an incoming gradient of 1 leaves whatever is there
        emulated("elbo_loss_backward_", torch.ones(()), *buffers, None, *arguments, *rest)
        assert all(buffer is None or bool((buffer == 3.0).all()) for buffer in buffers)
        emulated("elbo_loss_backward_", grad, *buffers, None, *arguments, *rest)
        all_gradients = on_cpu(
            "elbo_loss_backward", grad, (True, with_target, True, True, True, False), *arguments, *rest
        )
        wanted = [
            all_gradients[index] if buffer is not None else None
            for index, buffer in zip((0, 2, 3, 4), buffers, strict=True)
        ]
        compare(buffers, wanted)
    loss, reconstruction, kl, grad_recon, *others = emulated(
        "elbo_loss_with_gradients", (True, not given, not given, given, False), *arguments, *rest
    )
    if 0 in arguments[0].stride():
        return  # an expanded reconstruction cannot be overwritten
    overwritten = copy_in_layout(arguments[0])
    results = emulated("elbo_loss_", (not given, not given, given, False), overwritten, *arguments[1:], *rest)
    bits = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close((*results, overwritten), (loss, reconstruction, kl, *others, grad_recon), **bits)


@pytest.mark.parametrize("reduction", ALL_REDUCTIONS)
@pytest.mark.parametrize("shape", DATA_SHAPES)
def test_elbo_loss_layouts(shape: tuple[int, ...], reduction: str) -> None:
    for dtype, given_kl in [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True)]:
        if given_kl and reduction == "mean":
            continue
        for arguments in objective(shape, (dtype, dtype, dtype), given_kl):
            check_objective(arguments, 0.7, None, reduction)


@pytest.mark.parametrize(
    "dtypes", list(itertools.product(DTYPES, DTYPES, [torch.float32, torch.float16, torch.float64]))
)
def test_elbo_loss_dtypes(dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]) -> None:
    betas = [torch.tensor(0.7, dtype=dtype) for dtype in DTYPES]
    arguments = list(objective((3, 32), dtypes, given_kl=False))[:2]
    for reduction, beta in zip(["batchmean", "sample"], betas[DTYPES.index(dtypes[0]) % 3 :], strict=False):
        for one in arguments:
            check_objective(one, 99.0, beta, reduction)


@pytest.mark.parametrize("reduction", ALL_REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_elbo_loss_of_bytes(dtype: torch.dtype, reduction: str) -> None:
    for shape in DATA_SHAPES:
        for recon, _, mu, logvar, kl in objective(shape, (dtype, dtype, torch.float32), given_kl=False):
            target = torch.empty_like(recon, dtype=torch.uint8).random_(0, 256)
            check_objective(
                (recon, target, mu, logvar, kl), 0.7, None, reduction, target_scale=2 / 255, target_shift=-1.0
            )


@pytest.mark.parametrize("reduction", ALL_REDUCTIONS)
@pytest.mark.parametrize("latent_numel", [1, 40, 1030, 4500])
def test_elbo_loss_latent_sizes(latent_numel: int, reduction: str) -> None:
    for data in [(3, 8), (3, 2100)]:
        arguments = next(objective(data, (torch.float32,) * 3, False, latent_numel))
        check_objective(arguments, 0.3, None, reduction)


def test_bits_do_not_depend_on_the_grid(emulation: ctypes.CDLL) -> None:
    generator = torch.Generator().manual_seed(5)
    recon, target = torch.randn(2, 5, 7001, generator=generator)
    mu, logvar = torch.randn(2, 5, 3000, generator=generator)
    small_mu, small_logvar = torch.randn(2, 700, 24, generator=generator)

    def everything() -> list[Tensor]:
        results = [emulated("reparameterize", small_mu, small_logvar, KEY)]
        results += emulated("reparameterize_with_kl", mu, logvar, KEY)
        results += emulated("reparameterize_with_kl", small_mu, small_logvar, KEY)
        for reduction in ALL_REDUCTIONS:
            results.append(emulated("kl_divergence", mu, logvar, None, None, reduction))
            results += emulated("elbo_loss", recon, target, mu, logvar, None, 0.5, None, "mse", reduction)
        return results

    unlimited = everything()
    for blocks in GRIDS:
        emulation.emulate_largest_grid(blocks)
        for one, other in zip(everything(), unlimited, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("numel", [16, 48, 2064])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_of_an_item_do_not_depend_on_its_place(dtype: torch.dtype, numel: int) -> None:
    """As docs/numerics.md says, of items of a multiple of 16 elements."""
    item = torch.randn(4, 1, numel, generator=torch.Generator().manual_seed(8)).to(dtype)
    recon, target, mu, logvar = item.expand(4, 7, numel).clone().unbind()
    sums = [emulated("reparameterize_with_kl", mu, logvar, KEY)[1]]
    sums.append(emulated("kl_divergence", mu, logvar, None, None, "sample"))
    sums += emulated("elbo_loss", recon, target, mu, logvar, None, 0.5, None, "mse", "sample")
    sums += emulated("elbo_loss", recon, target, mu, logvar, None, 0.5, None, "l1", "sample")
    for of_items in sums:
        assert len(of_items.unique()) == 1


@pytest.mark.parametrize("shape", [(130, 4100), (9, 20001), (3, 140000)], ids=str)
def test_items_of_few_and_of_many_pieces(shape: tuple[int, ...]) -> None:
    """Two pieces of more items than the last block takes at once, some, and more than a warp."""
    recon, target, mu, logvar = torch.randn(4, *shape, generator=torch.Generator().manual_seed(9)).unbind()
    for latent in ((mu, logvar), (mu[:, :5], logvar[:, :5])):
        for kind in ("mse", "l1"):
            arguments = (recon, target, *latent, None, 0.5, None, kind, "sample")
            assert_agree(emulated("elbo_loss", *arguments), on_cpu("elbo_loss", *arguments))
    arguments = (mu, logvar, None, None, "sample")
    assert_agree(emulated("kl_divergence", *arguments), on_cpu("kl_divergence", *arguments))


def test_sums_are_those_of_float64() -> None:
    generator = torch.Generator().manual_seed(6)
    recon, target = torch.randn(2, 40, 3000, generator=generator)
    mu, logvar = torch.randn(2, 40, 3000, generator=generator)
    wide = [tensor.double() for tensor in (recon, target, mu, logvar)]
    exact = on_cpu("elbo_loss", *wide, None, 1.0, None, "mse", "sum")
    narrow = emulated("elbo_loss", recon, target, mu, logvar, None, 1.0, None, "mse", "sum")
    for one, other in zip(narrow, exact, strict=True):
        assert abs(one.item() / other.item() - 1) < 1e-7  # the rounding of the result to float32


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0,)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    empty = torch.empty(shape)
    assert_agree(emulated("standard_normal", KEY, shape, dtype=torch.float32), empty)
    z, kl = emulated("reparameterize_with_kl", empty, empty, KEY)
    assert_agree((z, kl), on_cpu("reparameterize_with_kl", empty, empty, KEY))
    assert emulated("reparameterize", empty, empty, overload="generator")[1].tolist() == [0, 0]
    assert_agree(emulated("reparameterize_backward", z, kl, empty, empty, KEY, None, (True, True)), (empty, empty))
    for reduction in ALL_REDUCTIONS:
        arguments = (empty, empty, None, None, reduction)
        assert_agree(emulated("kl_divergence", *arguments), on_cpu("kl_divergence", *arguments))
        for data in (empty, torch.randn(shape[0], 5)):
            check_objective((data, data + 1, empty, empty, None), 0.7, None, reduction)


def test_not_a_number_stays_in_its_item() -> None:
    recon, target, mu, logvar = torch.randn(4, 3, 24).unbind()
    recon[0, 3], mu[1, 2], logvar[2, 0] = float("nan"), float("inf"), float("-inf")
    arguments = (recon, target, mu, logvar, None, 1.0, None, "mse", "sample")
    assert_agree(emulated("elbo_loss", *arguments), on_cpu("elbo_loss", *arguments))
    assert_agree(
        emulated("reparameterize_with_kl", mu, logvar, KEY), on_cpu("reparameterize_with_kl", mu, logvar, KEY), True
    )
