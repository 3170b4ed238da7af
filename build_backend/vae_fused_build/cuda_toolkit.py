"""Where the CUDA toolkit is, and what the pip packages of a CUDA torch add to it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CudaToolkit:
    """A CUDA toolkit with ``bin/nvcc`` in it."""

    home: Path
    version: tuple[int, int]


def find_toolkit(environ: Mapping[str, str]) -> CudaToolkit | None:
    """The toolkit of ``CUDA_HOME`` or ``CUDA_PATH`` if one is set, else of the nvcc on PATH, else /usr/local/cuda."""
    if named := environ.get("CUDA_HOME") or environ.get("CUDA_PATH"):
        homes: Iterator[Path] = iter([Path(named)])
    else:
        homes = _usual_homes(environ)
    for home in homes:
        version = _nvcc_version(home / "bin" / "nvcc")
        if version is not None:
            return CudaToolkit(home, version)
    return None


def pip_include_dirs(site_packages: Path) -> list[str]:
    """Headers that torch's own includes need (cublas, cusparse, …) and that a compiler-only toolkit does not have."""
    return [str(directory) for directory in sorted(site_packages.glob("nvidia/*/include"))]


def runtime_library(home: Path, site_packages: Path) -> tuple[str, str]:
    """The directory of the CUDA runtime, and the runtime's name for the linker.

    A toolkit has ``libcudart.so``; pip's packages have only the versioned name, which ``-lcudart`` does not find.
    """
    directories = [home / "lib64", home / "lib", *sorted(site_packages.glob("nvidia/*/lib"))]
    for directory in directories:
        if (directory / "libcudart.so").exists():
            return str(directory), "cudart"
    for directory in directories:
        for versioned in sorted(directory.glob("libcudart.so.*")):
            return str(directory), f":{versioned.name}"
    return str(directories[0]), "cudart"


def _usual_homes(environ: Mapping[str, str]) -> Iterator[Path]:
    if nvcc := shutil.which("nvcc", path=environ.get("PATH")):
        yield _home_of(nvcc)
    yield Path("/usr/local/cuda")


def _home_of(nvcc: str) -> Path:
    # The nvcc on PATH is often a link or a wrapper script, so it is asked where the real one lies.
    trace = subprocess.run([nvcc, "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True, check=False)
    if match := re.search(r"_HERE_=(\S+)", trace.stderr):
        return Path(match[1]).parent
    return Path(nvcc).resolve().parents[1]


def _nvcc_version(nvcc: Path) -> tuple[int, int] | None:
    if not nvcc.is_file():
        return None
    answer = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"release (\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else None
