"""The extension module ``vae_fused._C`` and the command that compiles it. The only file here that imports torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setuptools import Extension

from vae_fused_build import cpu_kernels
from vae_fused_build.cuda_toolkit import CudaToolkit, find_toolkit, pip_include_dirs, runtime_library
from vae_fused_build.settings import cuda_architectures, decide_cuda
from vae_fused_build.stamp import BuildStamp

CSRC = Path("csrc")

# ATen's parallel_for is a template: without OpenMP in the extension's own flags it runs on one thread.
OPENMP = ["-fopenmp"] if sys.platform == "linux" else []
HOST_FLAGS = ["-std=c++20", "-O2", "-g0", *OPENMP]
# torch adds --expt-relaxed-constexpr. -lineinfo costs no speed and lets profilers and sanitizers name source lines.
NVCC_FLAGS = ["-std=c++20", "-O3", "-lineinfo"]


@dataclass(frozen=True)
class Build:
    """What ``setup.py`` hands to setuptools."""

    extension: Extension
    command: type[Any]
    stamp: BuildStamp


def plan_build(environ: Mapping[str, str]) -> Build:
    """Decide what is built against the torch that can be imported here."""
    import torch

    toolkit = find_toolkit(environ) if torch.version.cuda else None
    decision = decide_cuda(environ, torch.version.cuda, toolkit)
    if decision.notice:
        _print_loudly(decision.notice)
    architectures: list[str] = []
    if decision.enabled and toolkit is not None:
        architectures = cuda_architectures(environ, toolkit)
        # torch reads both when its extension tools are imported and run. It would take CUDA_HOME from the folder above
        # nvcc, wrong where that is a wrapper script, and the architectures from the GPUs of this machine.
        os.environ["CUDA_HOME"] = str(toolkit.home)
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(architectures)
        extension = _cuda_extension(toolkit)
    else:
        extension = _cpu_extension()
    stamp = BuildStamp(
        extension=True,
        torch=torch.__version__,
        cuda=torch.version.cuda if decision.enabled else None,
        cuda_architectures=architectures,
    )
    return Build(extension, _build_command(), stamp)


def _sources(*patterns: str) -> list[str]:
    # The compilation order is part of the link order: sorted, so that the same tree gives the same binary.
    return sorted(str(file) for pattern in patterns for file in CSRC.glob(pattern))


def _cpu_extension() -> Extension:
    from torch.utils.cpp_extension import CppExtension

    return CppExtension(
        "vae_fused._C",
        _sources("*.cpp", "autograd/*.cpp", "cpu/*.cpp"),
        include_dirs=[str(CSRC.resolve())],
        define_macros=cpu_kernels.definitions(),
        extra_compile_args={"cxx": HOST_FLAGS},
        extra_link_args=[*OPENMP],
    )


def _cuda_extension(toolkit: CudaToolkit) -> Extension:
    import torch
    from torch.utils.cpp_extension import CUDAExtension

    site_packages = Path(torch.__file__).parents[1]
    cudart_dir, cudart = runtime_library(toolkit.home, site_packages)
    extension = CUDAExtension(
        "vae_fused._C",
        _sources("*.cpp", "autograd/*.cpp", "cpu/*.cpp", "cuda/*.cpp", "cuda/*.cu"),
        include_dirs=[str(CSRC.resolve())],
        define_macros=[*cpu_kernels.definitions(), ("VAE_FUSED_CUDA", "1")],
        extra_compile_args={"cxx": HOST_FLAGS, "nvcc": NVCC_FLAGS},
        extra_link_args=[*OPENMP],
    )
    # After the toolkit's own directories, so that nvcc and the headers it was made with stay together.
    extension.include_dirs += pip_include_dirs(site_packages)
    extension.library_dirs += [cudart_dir]
    extension.libraries = [cudart if name == "cudart" else name for name in extension.libraries]
    return extension


def _build_command() -> type[Any]:
    from torch.utils.cpp_extension import BuildExtension, get_cxx_compiler

    class BuildKernelsAndExtension(BuildExtension):
        """torch's ``build_ext``, with the CPU kernels compiled first and linked in."""

        def finalize_options(self) -> None:
            super().finalize_options()
            if self.editable_mode:
                # setuptools gives editable builds a fresh temporary directory: every edit would compile everything.
                self.build_temp = str(Path("build", f"temp.editable-{sys.implementation.cache_tag}"))

        def build_extensions(self) -> None:
            objects = cpu_kernels.compile_kernels(get_cxx_compiler(), CSRC, Path(self.build_temp, "cpu_kernels"))
            for extension in self.extensions:
                extension.extra_objects = [*extension.extra_objects, *objects]
            _keep_suffixes_in_object_names(self.compiler)
            super().build_extensions()

    return BuildKernelsAndExtension


def _keep_suffixes_in_object_names(compiler: Any) -> None:
    """Let ``op.cpp`` and ``op.cu`` of one folder become ``op.cpp.o`` and ``op.cu.o``, not the same ``op.o`` twice."""
    plain_names = compiler.object_filenames

    def object_filenames(sources: list[str], strip_dir: bool = False, output_dir: str = "") -> list[str]:
        names = plain_names(sources, strip_dir, output_dir)
        return [
            f"{Path(name).with_suffix('')}{Path(source).suffix}{Path(name).suffix}"
            for source, name in zip(sources, names, strict=True)
        ]

    compiler.object_filenames = object_filenames


def _print_loudly(notice: str) -> None:
    line = "!" * 100
    print(f"\n{line}\n{notice}\n{line}\n", file=sys.stderr, flush=True)
