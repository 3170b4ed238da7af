"""The CUDA code for packed moments, run on the host and compared with the CPU operators: the halves in place, the clamp
of logvar, one packed gradient.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator

import pytest
import torch
from cuda_emulation.harness import DTYPES, KEY, assert_agree, emulated, emulating, layouts, needs_emulation, on_cpu

pytestmark = needs_emulation

SHAPES = [
    (3, 6),
    (2, 32),
    (5, 8, 3),
    (2, 8, 4, 8),
    (3, 2, 1, 3, 6),
    (2, 4, 2, 3, 2, 3),
    (40, 192),
    (3, 5002),
    (2, 4, 33, 32),
]
# 0 inside, below and above the bounds, which padding must not feel; bounds that half types round; none.
CLAMPS = [(-0.5, 0.5), (0.25, math.inf), (-math.inf, -0.1), (-math.inf, math.inf)]


@pytest.fixture(autouse=True)
def emulation() -> Iterator[ctypes.CDLL]:
    with emulating() as library:
        yield library


def assert_zero_beyond(moments: torch.Tensor, gradient: torch.Tensor, dim: int, clamp: tuple[float, float]) -> None:
    logvar, of_logvar = moments.chunk(2, dim)[1], gradient.chunk(2, dim)[1]
    low, high = (torch.tensor(bound, dtype=torch.float64).to(moments.dtype) for bound in clamp)
    assert torch.equal(of_logvar == 0, (logvar < low) | (logvar > high))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("clamp", CLAMPS, ids=str)
def test_packed_reparameterize_with_kl_and_its_backward(
    shape: tuple[int, ...], dtype: torch.dtype, clamp: tuple[float, float]
) -> None:
    per_item = torch.stack([torch.arange(shape[0]), torch.arange(shape[0]) * 7], dim=1).to(torch.uint64)
    dims = [dim for dim in (1, -1) if shape[dim] % 2 == 0]
    for index, moments in enumerate(layouts(shape, dtype, 1)):
        dim, key = dims[index % len(dims)], (KEY, per_item)[index % 2]
        packing = {"dim": dim, "logvar_min": clamp[0], "logvar_max": clamp[1]}
        z, kl = emulated("packed_reparameterize_with_kl", moments, key, **packing)
        assert_agree((z, kl), on_cpu("packed_reparameterize_with_kl", moments, key, **packing), True)
        for grad_z, grad_kl in [(z, kl), (None, kl[:1].expand_as(kl)), (z, None)]:
            arguments = (grad_z, grad_kl, moments, key, dim, *clamp)
            gradient = emulated("packed_reparameterize_backward", *arguments)
            assert_agree(gradient, on_cpu("packed_reparameterize_backward", *arguments), True)
        if dtype in (torch.float32, torch.float64):
            assert_zero_beyond(moments, gradient, dim, clamp)


def test_generator(emulation: ctypes.CDLL) -> None:
    moments = torch.randn(3, 14)
    emulation.emulate_generator(2**40 + 3, 1000, False)
    packing = {"dim": 1, "logvar_min": -1.0, "logvar_max": 1.0}
    z, kl, key = emulated("packed_reparameterize_with_kl", moments, overload="generator", **packing)
    assert key.tolist() == [2**40 + 3, 250]
    assert emulation.emulated_offset() == 4 * (250 + 6)  # 21 normals, not 42
    for one, other in zip((z, kl), emulated("packed_reparameterize_with_kl", moments, key, **packing), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("clamp", CLAMPS, ids=str)
def test_packed_kl_divergence_and_its_backward(
    shape: tuple[int, ...], dtype: torch.dtype, clamp: tuple[float, float]
) -> None:
    dims = [dim for dim in (1, -1) if shape[dim] % 2 == 0]
    for index, (moments, prior) in enumerate(zip(layouts(shape, dtype, 1), layouts(shape, dtype, 2), strict=True)):
        dim = dims[index % len(dims)]
        for other in (None, prior):
            arguments = (moments, other, dim, *clamp, dim, -0.3, 0.3)
            kl = emulated("packed_kl_divergence", *arguments)
            assert_agree(kl, on_cpu("packed_kl_divergence", *arguments))
            for mask in [(True, True), (False, True), (True, False)]:
                everything = (torch.full_like(kl, 0.75), *arguments, mask)
                gradients = emulated("packed_kl_divergence_backward", *everything)
                assert_agree(gradients, on_cpu("packed_kl_divergence_backward", *everything))
            if other is None:  # or it is zero as well where both are the same
                assert_zero_beyond(moments, gradients[0], dim, clamp)


def test_errors_are_those_of_the_cpu() -> None:
    moments = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="dim must not be the batch dimension 0"):
        emulated("packed_reparameterize_with_kl", moments, KEY, dim=0, logvar_min=-1.0, logvar_max=1.0)
    with pytest.raises(ValueError, match="prior_moments must hold a mean of shape"):
        emulated("packed_kl_divergence", moments, torch.zeros(3, 6), 1, -1.0, 1.0, 1, -1.0, 1.0)
