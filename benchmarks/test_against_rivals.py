"""Ours against eager PyTorch and torch.compile, forward and backward."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from cases import CPU_CASES, Case
from comparison import Comparisons, rivals_of
from recorded_timer import recorded


# Importing the compiler makes torch warn about its own use of a deprecated function.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.benchmark(timer=recorded)
@pytest.mark.parametrize(("case", "rival"), [(case, rival) for case in CPU_CASES for rival in rivals_of(case)], ids=str)
def test_forward_and_backward(benchmark: BenchmarkFixture, comparisons: Comparisons, case: Case, rival: str) -> None:
    """One rival in one case; the first of a case checks that ours and eager agree, then measures all of them."""
    comparison = comparisons.measure(case)
    result = comparison.row.results[rival]
    if result.failure is not None:
        pytest.fail(f"{rival} could not run {case}: {result.failure}", pytrace=False)
    benchmark.group = str(case)
    benchmark.extra_info["peak_bytes"] = result.peak_bytes
    benchmark.extra_info["ideal_bytes"] = case.ideal_bytes
    benchmark.extra_info["times_as_long_as_ours"] = comparison.row.ratio(rival, "step")
    durations = comparison.durations[rival]["step"]
    recorded.load(durations)
    benchmark.pedantic(lambda: None, rounds=len(durations), iterations=1)
