"""No CUDA kernel touches memory outside of its operands: run on the host, each operand between pages that are barred.

Where a kernel reads or writes beyond, the process ends. So it is one of its own.
"""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cuda_emulation.harness import KEY, compiled, emulated, emulating, needs_emulation
from torch import Tensor

pytestmark = needs_emulation

# A row that fills no vector, rows that do, an image, small items that do not fill a block, a piece with a ragged end.
SHAPES = [(3, 5), (2, 16), (2, 3, 7, 5), (70, 3), (2, 4099)]
DTYPES = [torch.float32, torch.bfloat16]
SCALES: list[dict[str, Any]] = [
    {},
    {"parameterization": "softplus_std", "epsilon": 0.01},
    {"logvar_min": -1.0, "logvar_max": 1.0, "clamp": "soft"},
]
TERMS: list[dict[str, Any]] = [
    {"recon_loss": "mse"},
    {"recon_loss": "l1"},
    {"recon_loss": "gaussian_nll", "log_sigma_value": -0.5},
]


def runs_guarded(function: Callable[..., None], *arguments: Any) -> int:
    """The exit code of function(*arguments) where every tensor that it makes is guarded."""

    def run() -> None:
        torch.set_num_threads(1)
        compiled().guard_memory()
        with emulating():
            function(*arguments)

    compiled()
    child = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def layouts(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[Callable[[], Tensor]]:
    """Makers of tensors that end where their memory ends."""
    numel = torch.Size(shape).numel()
    yield lambda: torch.rand(shape).to(dtype)
    yield lambda: torch.rand(numel + 1).to(dtype)[1:].view(shape)
    yield lambda: torch.rand(shape[0], 2 * shape[1], *shape[2:]).to(dtype)[:, shape[1] :]
    if len(shape) == 4:
        yield lambda: torch.rand(shape).to(dtype).to(memory_format=torch.channels_last)


def keys_of_items(batch: int) -> Tensor:
    return torch.stack([torch.arange(batch), torch.arange(batch) * 7], dim=1).to(torch.uint64)


def sampling(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    keys = itertools.cycle([KEY.clone(), keys_of_items(shape[0])])
    for make, scale in itertools.product(layouts(shape, dtype), SCALES):
        mu, raw = make(), make()
        mask = torch.rand(shape) if scale else None
        for key, samples in itertools.islice(zip(keys, itertools.cycle([None, 3, 3])), 3):
            emulated("standard_normal", key, shape, dtype=dtype)
            z = emulated("reparameterize", mu, raw, key, num_samples=samples, **scale)
            emulated("reparameterize_backward", z, None, None, raw, key, samples, (True, True), **scale)
        z, kl = emulated("reparameterize_with_kl", mu, raw, key, mask=mask, **scale)
        emulated("reparameterize_backward", z, kl, mu, raw, key, None, (True, True), mask=mask, **scale)


def divergence(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    reductions = itertools.cycle(["sum", "sample", "none"])
    for make, scale, prior in itertools.product(layouts(shape, dtype), SCALES, [False, True]):
        mask = torch.rand(shape) < 0.5 if scale else None
        operands = (make(), make(), *((make(), make()) if prior else (None, None)), next(reductions))
        value = emulated("kl_divergence", *operands, mask=mask, **scale)
        emulated("kl_divergence_backward", value, (True,) * 4, *operands, mask=mask, **scale)


def objective(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    choices = itertools.cycle(itertools.product(["sum", "sample"], [True, False], [True, False], [True, False]))
    for make, term in itertools.product(layouts(shape, dtype), TERMS):
        for reduction, in_bytes, weighted, given in itertools.islice(choices, 4):
            settings = dict(term)
            recon_loss = settings.pop("recon_loss")
            if weighted and recon_loss != "mse":
                settings["weight"] = torch.rand(shape) < 0.5
            if in_bytes:
                settings["target_scale"] = 1 / 255
            target = (torch.rand(shape) * 255).byte() if in_bytes else make()
            mu, logvar = torch.rand(shape[0], 6).to(dtype), torch.rand(shape[0], 6).to(dtype)
            latents = (None, None, torch.rand(shape[0])) if given else (mu, logvar, None)
            arguments = (make(), target, *latents, 0.5, None, recon_loss, reduction)
            loss = emulated("elbo_loss", *arguments, **settings)[0]
            emulated("elbo_loss_backward", loss, (True,) * 6, *arguments, **settings)
            if reduction == "sum":
                emulated("elbo_loss_with_gradients", (True,) * 5, *arguments, **settings)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("operators", [sampling, divergence, objective])
def test_kernels_stay_inside_of_their_operands(
    operators: Callable[..., None], dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    assert runs_guarded(operators, dtype, shape) == 0


def read_beyond() -> None:
    numbers = torch.zeros(4096)
    ctypes.string_at(numbers.data_ptr() + numbers.nbytes, 1)


def write_into_what_is_left_over() -> None:
    numbers = torch.zeros(3)
    ctypes.memset(numbers.data_ptr() + numbers.nbytes, 0, 1)
    del numbers


@pytest.mark.parametrize("mistake", [read_beyond, write_into_what_is_left_over])
def test_the_guard_notices(mistake: Callable[[], None]) -> None:
    def without_a_report() -> None:
        faulthandler.disable()
        mistake()

    assert runs_guarded(without_a_report) < 0
