"""What to build: the decisions, as plain functions of the environment variables and of what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vae_fused_build.cuda_toolkit import CudaToolkit

MINIMUM_TORCH = (2, 11)
TORCH_REQUIREMENT = "torch>=2.11"


class SettingError(Exception):
    """A build setting that cannot be followed; the message says which, and what would work."""


@dataclass(frozen=True)
class CudaDecision:
    """Whether CUDA kernels are built; ``notice`` is set where a CUDA torch gets none without having been asked to."""

    enabled: bool
    notice: str | None = None


def extension_wanted(environ: Mapping[str, str]) -> bool:
    """False under ``VAE_FUSED_NO_EXT=1``, which leaves a pure-Python package on the reference implementation."""
    without_extension = _switch(environ, "VAE_FUSED_NO_EXT") is True
    if without_extension and _switch(environ, "FORCE_CUDA") is True:
        raise SettingError("VAE_FUSED_NO_EXT=1 builds no kernels and FORCE_CUDA=1 demands them: unset one of the two")
    return not without_extension


def decide_cuda(environ: Mapping[str, str], torch_cuda: str | None, toolkit: CudaToolkit | None) -> CudaDecision:
    """CUDA kernels are built for a CUDA torch with a matching toolkit; a visible GPU plays no part.

    Args:
        environ: ``FORCE_CUDA=0`` or ``=1`` in it decides outright.
        torch_cuda: ``torch.version.cuda``, None for a torch without CUDA.
        toolkit: The toolkit that was found, if any.

    Raises:
        SettingError: ``FORCE_CUDA=1`` cannot be followed, or is neither 0 nor 1.
    """
    forced = _switch(environ, "FORCE_CUDA")
    if forced is False:
        return CudaDecision(enabled=False)
    obstacle = _cuda_obstacle(torch_cuda, toolkit)
    if obstacle is None:
        return CudaDecision(enabled=True)
    if forced:
        raise SettingError(f"FORCE_CUDA=1, but {obstacle}")
    if torch_cuda is None:
        return CudaDecision(enabled=False)
    return CudaDecision(enabled=False, notice=f"Building vae_fused WITHOUT CUDA kernels: {obstacle}")


def cuda_architectures(environ: Mapping[str, str], toolkit: CudaToolkit) -> list[str]:
    """``TORCH_CUDA_ARCH_LIST`` as given, or Ampere to Blackwell as far as this nvcc knows them."""
    if given := environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split():
        return given
    # nvcc learned Blackwell (10.0 and 12.0) in CUDA 12.8. PTX of the newest carries on to later GPUs.
    return ["8.0", "9.0", "10.0", "12.0+PTX"] if toolkit.version >= (12, 8) else ["8.0", "9.0+PTX"]


def _cuda_obstacle(torch_cuda: str | None, toolkit: CudaToolkit | None) -> str | None:
    if torch_cuda is None:
        return "the installed torch is a build without CUDA. Install a CUDA build of torch first."
    if toolkit is None:
        return (
            f"torch is built for CUDA {torch_cuda} and no nvcc was found. Install the CUDA {torch_cuda} toolkit and "
            "set CUDA_HOME to its folder, or put its nvcc on PATH."
        )
    if toolkit.version[0] != int(torch_cuda.split(".")[0]):
        found = ".".join(map(str, toolkit.version))
        return (
            f"torch is built for CUDA {torch_cuda} and the toolkit in {toolkit.home} is CUDA {found}. "
            f"Set CUDA_HOME to a CUDA {torch_cuda} toolkit."
        )
    return None


def _switch(environ: Mapping[str, str], name: str) -> bool | None:
    value = environ.get(name, "")
    if value not in ("", "0", "1"):
        raise SettingError(f"{name} should be 0 or 1, not {value!r}")
    return None if value == "" else value == "1"
