"""What ``import vae_fused`` brings along: torch's compiler alone takes as long to import as torch does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LISTING = "import sys, torch; before = set(sys.modules); import vae_fused; print(*(set(sys.modules) - before))"
SLOW = {"torch._dynamo", "torch._inductor", "sympy", "matplotlib", "sklearn", "typer", "rich", "safetensors", "PIL"}


def test_import_brings_neither_the_compiler_nor_an_extra():
    listed = subprocess.run(
        [sys.executable, "-c", LISTING],
        cwd=Path(__file__).parent,  # not the root of the source, where "-c" would find the package unbuilt
        capture_output=True,
        text=True,
        check=True,
    )
    brought = set(listed.stdout.split())
    assert "vae_fused" in brought
    assert not brought & SLOW
