"""The cost of a call and of the import, and the processor's limits, one line each."""

from __future__ import annotations

import pytest

from import_time import import_line, measure_import
from limits import processor_limits
from overhead import measure_overhead, overhead_line
from results import Run


def test_overhead_of_the_objective(capsys: pytest.CaptureFixture[str], measured: Run) -> None:
    """Forward and backward in turns with the native graph."""
    measured.overhead = measure_overhead(seconds=4.0)
    with capsys.disabled():
        print(f"\n{overhead_line(measured.overhead)}")


def test_import_time(capsys: pytest.CaptureFixture[str], measured: Run) -> None:
    """Importing torch, and vae_fused after it."""
    measured.import_time = measure_import(rounds=3)
    with capsys.disabled():
        print(f"\n{import_line(measured.import_time)}")


def test_limits_of_the_processor(capsys: pytest.CaptureFixture[str], measured: Run) -> None:
    """The clock, and normals from L2."""
    measured.limits = processor_limits()
    with capsys.disabled():
        print("\n" + ", ".join(f"{name} {1e-9 * rate:.2f} G" for name, rate in measured.limits.items()))
