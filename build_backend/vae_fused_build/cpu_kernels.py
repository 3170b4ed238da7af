"""Compiles the CPU kernels: torch-free sources, each once per instruction set with the flags of that.

torch's ``BuildExtension`` knows one set of flags per extension, so these objects are built before it, by a ninja file
of their own (parallel, and rebuilt when a header changes), and handed to it for linking.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from pathlib import Path

# On the narrower registers the rest of -O3, loops written again for each way through them, doubles the time to compile
# for a few percent at most.
_VECTORIZED = ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi2"]

# In link order, the most modest first: of an inline function that several objects define (a template of the standard
# library, say) the linker keeps the first, which every processor can run.
INSTRUCTION_SETS = {
    "baseline": _VECTORIZED,
    "avx2": [*_VECTORIZED, *_AVX2],
    "avx512": ["-O3", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", *_AVX2],
}

# No contraction, so that every instruction set rounds where the source says so. The other two let the compiler
# vectorize math calls and comparisons: nothing here reads errno or the floating-point exception flags.
COMMON_FLAGS = [
    "-g0",
    "-std=c++20",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Wno-maybe-uninitialized",  # GCC 12 says it of its own AVX-512 intrinsics, a few hundred times
]


def is_x86_64() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def definitions() -> list[tuple[str, str]]:
    """The macros that tell all host code which kernels exist."""
    return [("VAE_FUSED_X86_KERNELS", "1")] if is_x86_64() else []


def instruction_sets() -> list[str]:
    return list(INSTRUCTION_SETS) if is_x86_64() else ["baseline"]


def compile_kernels(compiler: str, csrc: Path, build_directory: Path) -> list[str]:
    """Compile ``cpu/kernels/*.cpp`` for every instruction set and return the object files."""
    build_directory.mkdir(parents=True, exist_ok=True)
    sources = sorted(csrc.resolve().glob("cpu/kernels/*.cpp"))
    objects = {
        build_directory.resolve() / name / f"{source.stem}.o": (source, INSTRUCTION_SETS[name])
        for name in instruction_sets()
        for source in sources
    }
    (build_directory / "build.ninja").write_text(_ninja_file(compiler, csrc.resolve(), objects))
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    subprocess.run(["ninja", "-v", "-C", str(build_directory), *jobs], check=True)
    return [str(file) for file in objects]


def _ninja_file(compiler: str, csrc: Path, objects: dict[Path, tuple[Path, list[str]]]) -> str:
    flags = [*COMMON_FLAGS, *(f"-D{name}={value}" for name, value in definitions()), f"-I{csrc}"]
    lines = [
        "ninja_required_version = 1.3",
        "rule compile",
        f"  command = {compiler} -MMD -MF $out.d {shlex.join(flags)} $isa -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
    ]
    for file, (source, isa) in objects.items():
        lines += [f"build {_escape(file)}: compile {_escape(source)}", f"  isa = {shlex.join(isa)}"]
    return "\n".join(lines) + "\n"


def _escape(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
