"""The output layer fused into the loss, at the size of an MNIST MLP; the large size is a part of the suite."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from output_layer import SMALL, measure_output_layer
from recorded_timer import recorded
from sections import output_layer_table

_SECONDS = 4.0


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.benchmark(timer=recorded)
def test_forward_and_backward(benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """All rivals interleaved; one row each. pytest-benchmark is given the rounds of ours."""
    measured, durations = measure_output_layer(SMALL, _SECONDS)
    with capsys.disabled():
        print(f"\n{output_layer_table([measured])}")
    benchmark.group = f"output layer, {SMALL}"
    benchmark.extra_info["peak_bytes"] = measured.peak_bytes["ours"]
    recorded.load(durations["ours"])
    benchmark.pedantic(lambda: None, rounds=len(durations["ours"]), iterations=1)
