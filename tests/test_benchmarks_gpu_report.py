"""What benchmarks/gpu_report.py says where a part of the run failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
# As on a machine where the build failed: there is nothing to import.
WITHOUT_BUILD = """
import runpy, sys
script, *sys.argv[1:] = sys.argv[1:]
sys.modules["vae_fused"] = None
sys.path.insert(0, script.rpartition("/")[0])
runpy.run_path(script, run_name="__main__")
"""


def report(out_dir: Path, steps: str) -> str:
    steps_file = out_dir / "steps.tsv"
    steps_file.write_text(steps)
    command = [
        sys.executable,
        "-c",
        WITHOUT_BUILD,
        str(BENCHMARKS / "gpu_report.py"),
        str(out_dir),
        str(steps_file),
        "12",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (out_dir / "summary.md").read_text()


def test_a_build_that_failed_is_reported(tmp_path: Path) -> None:
    summary = report(tmp_path, "machine\tok\t1\nbuild\tFAILED: exit status 1\t11\n")
    assert "| build" in summary
    assert "FAILED: exit status 1" in summary
    assert "no build of vae_fused" in summary
    assert "The benchmarks wrote no results." in summary


def test_tests_that_were_cut_short_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "tests.xml").write_text('<?xml version="1.0"?><testsuites><testsuite name="pytest" tests="3"')
    summary = report(tmp_path, "tests\tFAILED: stopped after its limit of 130 s\t130\n")
    assert "CUDA tests" not in summary
    assert "stopped after its limit" in summary
