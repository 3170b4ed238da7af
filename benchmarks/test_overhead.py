"""The cost of a call and of the import, one line each."""

from __future__ import annotations

import pytest

from import_time import import_line, measure_import
from overhead import measure_overhead, overhead_line


def test_overhead_of_the_objective(capsys: pytest.CaptureFixture[str]) -> None:
    """Forward and backward in turns with the native graph."""
    measured = measure_overhead(seconds=4.0)
    with capsys.disabled():
        print(f"\n{overhead_line(measured)}")


def test_import_time(capsys: pytest.CaptureFixture[str]) -> None:
    """Importing torch, and vae_fused after it."""
    measured = measure_import(rounds=3)
    with capsys.disabled():
        print(f"\n{import_line(measured)}")
