"""Fixtures of all tests: the devices, a fixed seed, and the hypothesis profile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# For use_deterministic_algorithms. PyTorch reads it once, at the first matrix product on a GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

settings.register_profile("default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(20240607)


@pytest.fixture(autouse=True, scope="session")
def exact_convolutions() -> None:
    """On a GPU a convolution would else round float32 to ten bits, and sum its gradients in an order of its own."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


@pytest.fixture(autouse=True, scope="session")
def settled_mkl_kernels() -> None:
    """Every function of MKL's called once on one element, before a test compares with PyTorch's own.

    MKL chooses the kernel of a function at its first call, and of threads that make this call together one may be given
    a kernel of low accuracy: https://github.com/pytorch/pytorch/issues/188792.
    """
    functions = (
        torch.exp,
        torch.expm1,
        torch.log,
        torch.log1p,
        torch.sqrt,
        torch.sin,
        torch.cos,
        torch.tanh,
        torch.erfc,
    )
    for dtype in (torch.float32, torch.float64):
        for function in functions:
            function(torch.ones(1, dtype=dtype))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a short training run left."""
    # Imported here: most tests do without the training extra.
    from helpers.training import train

    out = tmp_path_factory.mktemp("runs") / "digits"
    assert train(out, epochs=3) == 0
    return out
