"""The CUDA operators on CPU tensors: their kernels and host code compiled for the host, on a spare dispatch key."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vae_fused

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = ["-std=c++20", "-g0", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-strict-aliasing"]
SOURCES = {"operators": ["-O0"], "kernels": ["-O1"], "fibers": ["-O1", "-U_FORTIFY_SOURCE"], "guarded_memory": ["-O1"]}

LOW = [torch.float32, torch.float16, torch.bfloat16]
DTYPES = [*LOW, torch.float64]
KEY = torch.tensor([42, 2**33 + 5], dtype=torch.uint64)
NO_LIMIT = 1 << 30

needs_emulation = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="the kernels are compiled for the host with g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="threads of a block are ucontext fibers"),
    pytest.mark.skipif(not vae_fused.build_info()["extension"], reason="the operators are not built"),
]


@functools.cache
def compiled() -> ctypes.CDLL:
    """The library, compiled once and loaded, which registers the operators."""
    with tempfile.TemporaryDirectory() as folder:
        library = _compile(Path(folder))
        loaded = ctypes.CDLL(str(library))
    loaded.emulate_generator.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_bool]
    loaded.emulated_offset.restype = ctypes.c_uint64
    loaded.emulated_launcher.restype = ctypes.c_char_p
    return loaded


def _compile(folder: Path) -> Path:
    torch_home = Path(torch.__file__).parent
    includes = [HERE / "include", CSRC, torch_home / "include", torch_home / "include/torch/csrc/api/include"]
    include_flags = [f"-I{path}" for path in includes]
    compilers = {
        name: subprocess.Popen(
            ["g++", *FLAGS, *flags, *include_flags, "-c", str(HERE / f"{name}.cpp"), "-o", str(folder / f"{name}.o")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, flags in SOURCES.items()
    }
    for name, compiler in compilers.items():
        _, errors = compiler.communicate()
        assert compiler.returncode == 0, f"{name}.cpp does not compile:\n{errors}"
    library = folder / "libemulation.so"
    objects = [str(folder / f"{name}.o") for name in SOURCES]
    # Without -Bsymbolic the checks could be those of the extension, which has functions of the same names.
    linked = ["g++", "-shared", "-Wl,-Bsymbolic", *objects, "-o", str(library)]
    torch_lib = torch_home / "lib"
    subprocess.run([*linked, f"-L{torch_lib}", f"-Wl,-rpath,{torch_lib}", "-ltorch_cpu", "-lc10"], check=True)
    return library


@contextlib.contextmanager
def emulating() -> Iterator[ctypes.CDLL]:
    torch.use_deterministic_algorithms(True)  # at::empty is then filled with NaN, which shows what nobody wrote
    library = compiled()
    library.emulate_largest_grid(NO_LIMIT)
    try:
        yield library
    finally:
        torch.use_deterministic_algorithms(False)


def emulated(name: str, *arguments: Any, overload: str = "default", **keywords: Any) -> Any:
    """The operator's CUDA code on CPU tensors."""
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)
    return getattr(getattr(torch.ops.vae_fused, name), overload).redispatch(key, *arguments, **keywords)


def on_cpu(name: str, *arguments: Any, **keywords: Any) -> Any:
    return getattr(torch.ops.vae_fused, name).default(*arguments, **keywords)


def assert_agree(actual: Any, expected: Any, noisy: bool = False, mixed: bool = False) -> None:
    """One rounding of the result's type apart, and where there is noise the rounding of its angle besides.

    Where float64 and narrower tensors are mixed, CUDA does all in float64 and the CPU what it can in float32.
    """
    if isinstance(actual, (tuple, list)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_agree(one, other, noisy, mixed)
        return
    assert (actual is None) == (expected is None)
    if actual is None:
        return
    assert actual.dtype == expected.dtype
    assert actual.stride() == expected.stride()
    wide = 2e-6 if mixed else 1e-13
    relative = {torch.float32: 2e-6, torch.float64: wide, torch.float16: 1e-3, torch.bfloat16: 8e-3}[actual.dtype]
    absolute = {torch.float32: 4e-6 if noisy else 1e-7, torch.float64: wide / 10}.get(actual.dtype, relative / 10)
    torch.testing.assert_close(actual, expected, rtol=relative, atol=absolute, equal_nan=True)


def layouts(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Iterator[Tensor]:
    """Contiguous, misaligned, the right half of rows, channels last, permuted, expanded."""
    generator = torch.Generator().manual_seed(seed)

    def values(*size: int) -> Tensor:
        return (torch.randn(size, generator=generator, dtype=torch.float64) * 0.7).to(dtype)

    yield values(*shape)
    yield values(int(torch.Size(shape).numel()) + 1)[1:].view(shape)
    yield values(shape[0], 2 * shape[1], *shape[2:])[:, shape[1] :]
    if len(shape) == 4:
        yield values(*shape).to(memory_format=torch.channels_last)
    yield values(*reversed(shape)).permute(*reversed(range(len(shape))))
    yield values(1, *shape[1:]).expand(shape)


def latents(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(layouts(shape, dtype, 1), layouts(shape, dtype, 2), strict=True)
    first, last = list(layouts(shape, dtype, 1)), list(layouts(shape, dtype, 2))
    yield first[0], last[-2]
