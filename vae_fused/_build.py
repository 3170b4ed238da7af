"""What the build left behind: the stamp file that ``setup.py`` writes next to the extension, and its check at import.

The extension is C++ against the ABI of one torch. Loading it into another one ends in a linker error at best, so the
versions are compared before the shared object is loaded.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch

from vae_fused._version import __version__


@dataclass(frozen=True)
class BuildStamp:
    """The facts of one build."""

    extension: bool
    torch: str | None
    cuda: str | None
    cuda_architectures: list[str]


def _read_stamp() -> BuildStamp | None:
    file = resources.files("vae_fused") / "_build_stamp.json"
    return BuildStamp(**json.loads(file.read_text())) if file.is_file() else None


stamp = _read_stamp()


def _release(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


def check_running_torch(stamp: BuildStamp) -> None:
    """Raise ``ImportError`` with the remedy unless the running torch is the one the extension was built against."""
    built, running = _release(str(stamp.torch)), _release(torch.__version__)
    same_cuda = stamp.cuda is None or stamp.cuda == torch.version.cuda
    if built == running and same_cuda:
        return
    built_with = f"torch {stamp.torch}" + (f" and CUDA {stamp.cuda}" if stamp.cuda else "")
    runs_with = f"torch {torch.__version__}" + (f" and CUDA {torch.version.cuda}" if torch.version.cuda else "")
    raise ImportError(
        f"vae_fused {__version__} was built with {built_with}, but {runs_with} is running. "
        "Build it again against this torch: pip install --force-reinstall --no-deps --no-cache-dir <vae_fused>"
    )


def describe(extension: Any) -> dict[str, Any]:
    """The dictionary of :func:`vae_fused.build_info`; ``extension`` is the loaded module or None."""
    return {
        "version": __version__,
        "extension": extension is not None,
        "torch": stamp.torch if stamp else None,
        "cuda": stamp.cuda if stamp else None,
        "cuda_architectures": stamp.cuda_architectures if stamp else [],
        "cpu_capability": extension.cpu_capability() if extension is not None else None,
        "running_torch": torch.__version__,
        "python": platform.python_version(),
    }
