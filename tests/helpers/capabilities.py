"""Programs that run with the CPU kernels of one instruction set, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import vae_fused as vf

CAPABILITIES = ("baseline", "avx2", "avx512")
BEST = vf.build_info()["cpu_capability"]

# "python -c" puts the working directory on the path; in the root of the source it would find the package unbuilt.
ELSEWHERE = Path(__file__).parents[1]


def available_capabilities() -> tuple[str, ...]:
    """The ones of this processor, none without the extension, and the one that the environment asks for if it does."""
    if BEST is None:
        return ()
    if os.environ.get("VAE_FUSED_CPU_CAPABILITY"):
        return (BEST,)
    return CAPABILITIES[: CAPABILITIES.index(BEST) + 1]


def run(capability: str, *arguments: str, program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VAE_FUSED_CPU_CAPABILITY": capability}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ELSEWHERE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
