"""How long ``import torch`` takes, and ``import torch, vae_fused``: ``python benchmarks/import_time.py``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from timing import Measurement

MOST_SECONDS_ADDED = 0.05
_TIMED_IMPORT = """
from time import perf_counter
start = perf_counter()
import torch
middle = perf_counter()
import vae_fused
end = perf_counter()
print(middle - start, end - start, end - middle)
"""


def measure_import(rounds: int) -> dict[str, Measurement]:
    """Seconds in fresh interpreters, whose own start is not counted: torch, both, and what vae_fused adds."""

    def sample() -> list[float]:
        done = subprocess.run(
            [sys.executable, "-c", _TIMED_IMPORT],
            cwd=Path(__file__).parent,  # not the root of the source, where "-c" would find the package unbuilt
            capture_output=True,
            text=True,
            check=True,
        )
        return [float(word) for word in done.stdout.split()]

    sample()  # so that the files are in the page cache
    columns = zip(*(sample() for _ in range(rounds)), strict=True)
    names = ("import torch", "import torch, vae_fused", "added")
    return {name: Measurement.of(list(values)) for name, values in zip(names, columns, strict=True)}


def import_line(measured: Mapping[str, Measurement]) -> str:
    """The medians in one line."""
    torch, both, added = (1e3 * measured[name].median for name in ("import torch", "import torch, vae_fused", "added"))
    return (
        f"import torch {torch:.0f} ms; import torch, vae_fused {both:.0f} ms; vae_fused adds {added:.1f} ms, "
        f"to be at most {1e3 * MOST_SECONDS_ADDED:.0f} (medians of {measured['added'].rounds})"
    )


if __name__ == "__main__":
    print(import_line(measure_import(rounds=9)))
