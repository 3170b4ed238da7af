"""The CUDA code of the reconstruction terms, run on the host and compared with the CPU operators."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cuda_emulation.harness import DTYPES, assert_agree, emulated, emulating, needs_emulation, on_cpu
from helpers.layouts import LAYOUTS
from helpers.terms import TERMS, Operands, TermCase, operands_of
from torch import Tensor

pytestmark = needs_emulation
REDUCTIONS = ["batchmean", "sum", "mean", "sample"]
SHAPES = [(3, 5), (2, 16), (2, 4, 4, 8)]
on_terms = pytest.mark.parametrize("term", TERMS, ids=str)
FORMULAS = [term for term in TERMS if not term.settings]


@pytest.fixture(autouse=True)
def emulation() -> Iterator[ctypes.CDLL]:
    with emulating() as library:
        yield library


def arguments_of(operands: Operands, reduction: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """As the operators take them."""
    settings = {
        name: value.detach() if isinstance(value, Tensor) else value for name, value in operands.settings.items()
    }
    recon_loss = settings.pop("recon_loss")
    if isinstance(settings.get("log_sigma"), float):
        settings["log_sigma_value"] = settings.pop("log_sigma")
    tensors = (operands.recon, operands.target, operands.mu, operands.logvar)
    return (*(t.detach() for t in tensors), None, 0.7, None, recon_loss, reduction), {**settings, "recon_weight": 1.3}


def compare(actual: Any, expected: Any, mixed: bool) -> None:
    """As assert_agree, with room for what a likelihood's terms of both signs leave of a rounding of their size."""
    for one, other in zip(actual, expected, strict=True):
        assert (one is None) == (other is None)
        if one is None:
            continue
        if one.dtype == torch.float32 or (one.dtype == torch.float64 and one.dim() <= 1):
            assert one.stride() == other.stride()
            # Sums are of up to ten thousand numbers of both signs; elements are differences of a few.
            torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-5 if one.dim() <= 1 else 3e-6, equal_nan=True)
        else:
            assert_agree(one, other, mixed=mixed)


def check(operands: Operands, reduction: str, mixed: bool = False) -> None:
    arguments, settings = arguments_of(operands, reduction)
    learned = "log_sigma" in settings
    of_target = operands.target.is_floating_point()
    compare(emulated("elbo_loss", *arguments, **settings), on_cpu("elbo_loss", *arguments, **settings), mixed)
    grad = torch.tensor(-1.5) if reduction != "sample" else torch.linspace(-1, 1, operands.recon.shape[0])
    for mask in [(True, of_target, True, True, False, learned), (False, False, False, True, False, learned)]:
        backward = (grad, mask, *arguments)
        compare(
            emulated("elbo_loss_backward", *backward, **settings),
            on_cpu("elbo_loss_backward", *backward, **settings),
            mixed,
        )
    if reduction == "sample":
        return
    mask = (True, True, True, False, learned)
    results = emulated("elbo_loss_with_gradients", mask, *arguments, **settings)
    compare(results, on_cpu("elbo_loss_with_gradients", mask, *arguments, **settings), mixed)
    buffers = list(results[3:8])
    for run in (emulated, on_cpu):
        scaled = [buffer if buffer is None else buffer.clone() for buffer in buffers]
        run("elbo_loss_backward_", torch.tensor(-1.5), *scaled, *arguments, **settings)
        if learned:  # that of a shared one is wide
            scaled[4] = scaled[4].to(settings["log_sigma"].dtype)
        expected = on_cpu(
            "elbo_loss_backward", torch.tensor(-1.5), (True, False, True, True, False, learned), *arguments, **settings
        )
        compare(scaled, [*expected[:1], *expected[2:]], mixed)
    overwritten = torch.empty_like(operands.recon).copy_(operands.recon.detach())
    in_place = emulated("elbo_loss_", (True, True, False, learned), overwritten, *arguments[1:], **settings)
    again = emulated("elbo_loss_with_gradients", mask, *arguments, **settings)
    torch.testing.assert_close(
        (*in_place, overwritten), (*again[:3], *again[4:], again[3]), rtol=0, atol=0, equal_nan=True
    )


@on_terms
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_shapes(term: TermCase, reduction: str) -> None:
    for shape in SHAPES:
        check(operands_of(term, shape), reduction)
        check(operands_of(term, shape, weight=shape), reduction)


@pytest.mark.parametrize("term", FORMULAS, ids=str)
@pytest.mark.parametrize("reduction", ["sum", "sample"])
def test_items_of_several_pieces(term: TermCase, reduction: str) -> None:
    check(operands_of(term, (2, 4500), weight=(2, 4500)), reduction)


@pytest.mark.parametrize("term", FORMULAS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(term: TermCase, layout: Any) -> None:
    if layout.__name__.startswith("expanded"):
        return  # the in-place gradient has no memory there
    for reduction in ("batchmean", "sample"):
        operands = operands_of(term, (2, 3, 4, 8), weight=(3, 1, 8))
        operands.recon, operands.target = layout(operands.recon.detach()), layout(operands.target)
        check(operands, reduction)


@pytest.mark.parametrize("term", FORMULAS, ids=str)
def test_dtypes(term: TermCase) -> None:
    for recon, target, third in itertools.product(DTYPES, [torch.float32, torch.bfloat16, torch.uint8], DTYPES):
        operands = operands_of(term, (3, 32), recon)
        operands.target = (
            torch.randint(0, 2, (3, 32), dtype=target) if target == torch.uint8 else operands.target.to(target)
        )
        log_sigma = operands.settings.get("log_sigma")
        if isinstance(log_sigma, Tensor):
            operands.settings["log_sigma"] = log_sigma.detach().to(third)
        operands.settings["weight"] = torch.rand(3, 32).to(third) if third != torch.float16 else torch.rand(3, 32) < 0.5
        wide = {tensor.dtype == torch.float64 for tensor in (operands.recon, operands.mu, operands.settings["weight"])}
        check(operands, "batchmean", mixed=len(wide) == 2 or third == torch.float64 or recon == torch.float64)


def test_bits_do_not_depend_on_the_grid(emulation: ctypes.CDLL) -> None:
    def everything() -> list[Tensor]:
        results = []
        torch.manual_seed(3)
        for term, reduction in itertools.product(TERMS, REDUCTIONS):
            arguments, settings = arguments_of(operands_of(term, (3, 2, 4500), weight=(4500,)), reduction)
            results += emulated("elbo_loss", *arguments, **settings)
            grad = torch.ones(3 if reduction == "sample" else ())
            mask = (True, True, False, False, False, "log_sigma" in settings)
            results += emulated("elbo_loss_backward", grad, mask, *arguments, **settings)
        return [result for result in results if result is not None]

    unlimited = everything()
    for blocks in (1, 7):
        emulation.emulate_largest_grid(blocks)
        assert all(torch.equal(one, other) for one, other in zip(everything(), unlimited, strict=True))


@pytest.mark.parametrize("term", FORMULAS, ids=str)
@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_empty_tensors(term: TermCase, shape: tuple[int, ...]) -> None:
    for reduction in REDUCTIONS:
        arguments, settings = arguments_of(operands_of(term, shape), reduction)
        compare(emulated("elbo_loss", *arguments, **settings), on_cpu("elbo_loss", *arguments, **settings), False)
        grad = torch.ones(shape[0] if reduction == "sample" else ())
        backward = (grad, (True, True, True, True, False, "log_sigma" in settings), *arguments)
        compare(
            emulated("elbo_loss_backward", *backward, **settings),
            on_cpu("elbo_loss_backward", *backward, **settings),
            False,
        )


@pytest.mark.parametrize("recon_loss", ["gaussian_nll", "laplace_nll"])
def test_elements_beyond_the_end_add_nothing_whatever_sigma_is(recon_loss: str) -> None:
    """The last of 11 elements share their vector with five that are none, and 1 / sigma is infinite."""
    recon, zero = torch.ones(1, 11), torch.zeros(1, 1)
    arguments = (recon, torch.zeros_like(recon), zero, zero, None, 1.0, None, recon_loss, "sum")
    loss, *_ = emulated("elbo_loss", *arguments, log_sigma_value=-100.0)
    assert loss.item() == float("inf")


@pytest.mark.parametrize(
    ("shape", "vectors"), [((4, 32), True), ((4, 1), True), ((1, 32), True), ((1, 1), False), ((4, 33), False)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_and_sigmas_beside_vectors(
    emulation: ctypes.CDLL, shape: tuple[int, int], vectors: bool, dtype: torch.dtype
) -> None:
    """One an element, a row or a column; and where it is one for all, or rows end inside of a vector."""
    rows, columns = 4, max(shape[1], 32)
    recon, target = (torch.rand(rows, columns).to(dtype) for _ in range(2))
    latent = torch.zeros(rows, 2, dtype=dtype)
    factors = torch.rand(shape) if shape[1] != 33 else torch.rand(4, 40)[:, :33]
    arguments = (recon, target, latent, latent, None, 1.0, None)
    for recon_loss, settings in (
        ("mse", {"weight": factors}),
        ("mse", {"weight": factors > 0.5}),
        ("gaussian_nll", {"log_sigma": factors.expand(shape).to(dtype)}),
        ("laplace_nll", {"weight": factors, "log_sigma": -factors}),
    ):
        if ("log_sigma" in settings and shape == (1, 1)) or (shape[1] == 33 and settings.get("weight") is not factors):
            continue  # one sigma, which is no operand; a factor that was made contiguous
        for reduction in ("sum", "sample"):
            call = (*arguments, recon_loss, reduction)
            compare(emulated("elbo_loss", *call, **settings), on_cpu("elbo_loss", *call, **settings), mixed=False)
            assert (b"VectorAccess" in emulation.emulated_launcher()) is vectors
            grad = torch.full((rows,) if reduction == "sample" else (), 0.5)
            wanted = (True, True, False, False, False, "log_sigma" in settings)
            gradients = [of("elbo_loss_backward", grad, wanted, *call, **settings) for of in (emulated, on_cpu)]
            compare(*gradients, mixed=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2, 16), (2, 3)], ids=str)
@pytest.mark.parametrize("recon_loss", ["gaussian_nll", "laplace_nll"])
def test_no_difference_is_no_error_however_small_sigma_is(
    recon_loss: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    recon = torch.rand(shape).to(dtype)
    arguments = (recon, recon, None, None, torch.zeros(2), 1.0, None, recon_loss, "sum")
    for log_sigma in (-50.0, -89.0, -300.0):
        element = torch.full(shape, log_sigma, dtype=dtype)
        for sigma in ({"log_sigma": element}, {"log_sigma": element[:1, :1]}, {"log_sigma_value": log_sigma}):
            mask = (True, False, False, False, "log_sigma" in sigma)
            for run in (emulated, on_cpu):
                loss, _, _, to_recon, *_, to_sigma = run("elbo_loss_with_gradients", mask, *arguments, **sigma)
                assert loss.item() == recon.numel() * log_sigma
                assert (to_recon == 0).all()
                if to_sigma is not None:
                    assert (to_sigma == recon.numel() // to_sigma.numel()).all()
