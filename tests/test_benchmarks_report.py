"""What benchmarks/report.py makes of results: crossovers, targets, regressions, filled documents; on made-up times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import IMAGES, MNIST, TERMS, WIDE, Case, Shapes
from comparison import IN_PLACE, NO_POOL, TRIAD, Comparison
from dtypes import by_dtype
from regressions import changes, regressions
from report import filled
from results import DtypeComparison, OutputLayer, Result, Row, Run, TrainingStep
from scaling import crossovers, points, thread_gains, verdict
from sections import dtypes_table, prediction_table
from targets import limit_outcomes, ratio_outcomes
from timing import Measurement, PhaseSampler, steady_sampler

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
MACHINE = {"cpu": "made up", "threads": 2, "torch_cpu_capability": "AVX2"}


def lasting(seconds: float) -> Measurement:
    return Measurement(minimum=seconds, median=seconds + 10, rounds=3)


def row(case: Case, threads: int = 2, **seconds: float) -> Row:
    """Rivals by name; ``no_pool`` and ``in_place`` stand for ours without the pool and in place."""
    names = {"no_pool": NO_POOL, "in_place": IN_PLACE, "triad": TRIAD}
    results = {names.get(name, name): Result(times={"step": lasting(t)}) for name, t in seconds.items()}
    return Row(case, results, threads)


def square(side: int) -> Case:
    return Case("objective", Shapes(f"{side}x{side}", (side, side), (side, side)))


def run(*rows: Row, **more) -> Run:
    return Run(machine=MACHINE, rows=list(rows), **more)


def test_ratio_and_rate_of_a_row():
    one = row(Case("loss", IMAGES), ours=1e-3, no_pool=2e-3, eager=4e-3)
    assert one.ratio("eager", "step") == (4.0, 10.004 / 10.001)
    assert one.ratio("eager", "step", NO_POOL) == (2.0, 10.004 / 10.002)
    assert one.ratio("compile", "step") is None
    # 3 passes over 64x3x256x256 and 4 over 64x4x64x64, 4 bytes each
    assert one.rate("step") == pytest.approx((3 * 12582912 + 4 * 1048576) * 4 / 1e-3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([(16, 2.0), (64, 3.0)], []),
        ([(16, 0.5), (64, 0.9)], []),
        ([(16, 0.5), (64, 2.0)], [32.0]),  # halfway on logarithmic axes
        ([(16, 2.0), (64, 0.5), (256, 2.0)], [32.0, 128.0]),
        ([(16, 0.5), (64, 1.0), (256, 2.0)], [64.0]),  # equal counts as not slower
        ([(1, 0.25), (8, 2.0)], [4.0]),
        ([(16, 2.0), (64, 1.0)], []),
        ([], []),
    ],
)
def test_crossovers(values, expected):
    assert crossovers(values) == pytest.approx(expected)


def test_verdict_names_each_size_that_is_slower():
    assert verdict([(16, 1.0), (64, 3.0)]) == "slower at no size"
    assert verdict([(16, 0.5), (64, 2.0)]) == "SLOWER at 16 elements (0.50x); crossover near 32 elements"
    assert verdict([(16, 0.5), (64, 0.25)]) == "SLOWER at 16 elements (0.50x), 64 elements (0.25x)"
    assert verdict([(16, 0.95), (64, 2.0)], least=0.9) == "slower at no size"
    assert verdict([]) == "not measured"


def test_points_are_sorted_and_of_one_operation_and_number_of_threads():
    rows = [
        row(square(8), ours=1.0, eager=3.0),
        row(square(4), ours=1.0, eager=0.5),
        row(square(4), threads=1, ours=1.0, eager=7.0),
        row(Case("loss", square(4).shapes), ours=1.0, eager=9.0),
        row(square(16), ours=1.0),
    ]
    assert points(rows, "objective", 2, "eager") == [(16, 0.5), (64, 3.0)]
    assert points(rows, "objective", 1, "eager") == [(16, 7.0)]


def test_thread_gains():
    rows = [row(square(4), 1, ours=3.0), row(square(4), 2, ours=2.0), row(square(8), 1, ours=1.0)]
    assert thread_gains(rows, "objective", 2) == [(16, 1.5)]


def test_ratio_targets_are_decided_by_the_minima():
    outcomes = ratio_outcomes(
        [
            row(Case("sampling", WIDE), ours=1.0, eager=11.0, compile=14.9),
            row(Case("loss", IMAGES), ours=1.0, no_pool=2.0, in_place=0.9, eager=11.9, compile=7.0),
            row(Case("l1", WIDE), ours=1.0, eager=5.0),
            row(Case("bce_with_logits", WIDE), ours=1.0, eager=4.9),
        ]
    )
    reached = {(outcome.title, outcome.measure): outcome.reached for outcome in outcomes}
    assert reached == {
        ("sampling + KL, 8192x512", "eager / ours"): True,
        ("sampling + KL, 8192x512", "compile / ours"): False,
        ("MSE + KL on 50 MB, pool off", "eager / ours"): False,
        ("MSE + KL on 50 MB, pool off", "compile / ours"): True,
        ("MSE + KL on 50 MB, pool", "eager / ours"): True,
        ("MSE + KL on 50 MB, pool", "compile / ours"): True,
        ("MSE + KL on 50 MB, in place", "eager / ours"): True,
        ("MSE + KL on 50 MB, in place", "compile / ours"): False,
        ("whole objective, 128x20 and 128x784", "eager / ours"): None,
        ("whole objective, 128x20 and 128x784", "compile / ours"): None,
        **{(f"{term}, 128x784", "eager / ours"): None for term in TERMS},
        ("bce_with_logits, 8192x512", "eager / ours"): False,
        ("gaussian_nll, 8192x512", "eager / ours"): None,
        ("l1, 8192x512", "eager / ours"): True,
    }


def test_limit_targets():
    limits = {"cycles_per_second": 4e9, "normals_per_second_one_thread": 1e9}
    overhead = {"ours": lasting(1.4), "native": lasting(1.0)}
    outcomes = limit_outcomes(run(row(Case("loss", IMAGES), ours=1.0, triad=0.95), limits=limits, overhead=overhead))
    assert [(o.measured, o.reached) for o in outcomes] == [("95% (100%)", True), ("4.00", False), ("1.40", True)]
    assert [o.reached for o in limit_outcomes(run())] == [None, None, None]


def test_prediction_is_the_slower_of_bytes_and_normals():
    # 8 passes over 8192x512 float32 are 134.2 MB; the noise is drawn twice.
    case = Case("sampling", WIDE)
    rows = [row(case, ours=5e-3, triad=2e-3), row(Case("loss", MNIST), ours=5e-3)]
    for one in rows:
        one.limits["normals_per_second"] = 2 * 8192 * 512 / 4e-3
    table = prediction_table(run(*rows))
    (line,) = table.splitlines()[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:] == ["134.2", "67.1", "2.00 ms", "8.39", "2.10", "4.00 ms", "4.00 ms", "5.00 ms", "80% (100%)"]


def test_dtypes_are_compared_with_float32_beside_them():
    times = {"float32": lasting(2.0), "bfloat16": lasting(1.0), "float64": lasting(4.0)}
    (line,) = dtypes_table(run(dtypes=[DtypeComparison("loss", times)])).splitlines()[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:] == ["2.00 (1.09)", "-", "0.50 (0.86)"]


def test_cases_are_grouped_by_dtype_where_there_is_a_float32_to_compare_with():
    loss, half = Case("loss", MNIST), Case("loss", MNIST, torch.float16)
    others = (Case("loss", WIDE), Case("l1", MNIST, torch.float16), Case("l1", WIDE, torch.bfloat16))
    assert by_dtype([half, *others, loss]) == [(loss, half)]


def visit(seconds: dict[str, list[float]], copy: float, failure: str | None = None) -> Comparison:
    durations = {name: {"step": values} for name, values in seconds.items()}
    comparison = Comparison.of(Case("loss", MNIST), {name: Result(peak_bytes=8) for name in seconds}, durations)
    comparison.row.limits = {"copy": copy}
    if failure is not None:
        comparison.row.results["compile"] = Result(failure=failure)
        del comparison.durations["compile"]
    return comparison


def test_visits_to_a_case_are_joined():
    first, second = visit({"ours": [3.0, 1.0]}, copy=2.0), visit({"ours": [2.0, 6.0, 7.0]}, copy=5.0)
    both = first.joined(second)
    assert both.durations == {"ours": {"step": [3.0, 1.0, 2.0, 6.0, 7.0]}}
    assert both.row.results == {"ours": Result({"step": Measurement(1.0, 3.0, 5)}, peak_bytes=8)}
    assert both.row.limits == {"copy": 5.0}
    assert first.row.results["ours"].times["step"].rounds == 2
    assert second.row.results["ours"].times["step"].rounds == 3


@pytest.mark.parametrize("failed", ["first", "second"])
def test_a_rival_that_failed_in_one_visit_has_failed(failed):
    seconds = {"ours": [1.0], "compile": [2.0]}
    broken, whole = visit(seconds, 1.0, failure="broke"), visit(seconds, 1.0)
    both = broken.joined(whole) if failed == "first" else whole.joined(broken)
    assert both.row.results["compile"] == Result(failure="broke")
    assert list(both.durations) == ["ours"]


def test_a_run_comes_back_from_its_json(tmp_path):
    whole = run(
        row(Case("loss", MNIST, torch.bfloat16), threads=1, ours=1.0, no_pool=2.0, eager=3.0),
        limits={"cycles_per_second": 4e9},
        sweep=[row(square(4), ours=1.0)],
        dtypes=[DtypeComparison("loss", {"float32": lasting(1.0)})],
        training_steps=[TrainingStep("mlp", 128, {"ours": lasting(1.0)}, {"ours": lasting(0.1)})],
        output_layers=[OutputLayer("8x4 -> 16", {"ours": lasting(1.0)}, {"ours": 100})],
        overhead={"ours": lasting(1.0)},
        import_time={"added": lasting(0.01)},
    )
    whole.rows[0].results["compile"] = Result(failure="broke")
    whole.write(tmp_path / "results.json")
    again = Run.read(tmp_path)
    assert again.problems == ["loss-mnist-bfloat16: compile failed: broke"]
    again.problems = []
    assert again == whole


def test_regressions_are_what_is_slower_than_the_threshold_or_gone():
    before = run(
        row(Case("loss", MNIST), ours=1.0, eager=2.0),
        row(Case("loss", IMAGES), ours=1.0, no_pool=1.0, eager=2.0),
        row(Case("sampling", WIDE), ours=1.0),
        import_time={"added": Measurement(0.005, 0.01, 3)},
    )
    now = run(
        row(Case("loss", MNIST), ours=1.2, eager=3.0),
        row(Case("loss", IMAGES), ours=1.21, no_pool=0.5, eager=2.0),
        import_time={"added": Measurement(0.005, 0.02, 3)},
    )
    found = changes(before, now)
    ratios = {change.name: (change.ratio, change.eager_ratio) for change in found}
    assert ratios == {
        "ours: loss-mnist-float32, 2 threads, step": (1.2, 1.5),
        "ours: loss-images-float32, 2 threads, step": (1.21, 1.0),
        "ours: sampling-wide-float32, 2 threads, step": (None, None),
        f"{NO_POOL}: loss-images-float32, 2 threads, step": (0.5, 1.0),
        "import of vae_fused": (2.0, None),
    }
    assert [change.name.split(",")[0] for change in regressions(found, 1.2)] == [
        "ours: loss-images-float32",
        "ours: sampling-wide-float32",
        "import of vae_fused",
    ]


def test_filled_replaces_what_stands_between_the_marks_only():
    document = "before\n<!-- begin: shapes -->\nold\n<!-- end: shapes -->\nafter\n"
    once = filled(document, run(row(Case("loss", MNIST), ours=1.0)))
    assert once.startswith("before\n<!-- begin: shapes -->\n")
    assert once.endswith("<!-- end: shapes -->\nafter\n")
    assert "| mnist |  128x20 | 128x784 |" in once
    assert "old" not in once
    assert filled(once, run(row(Case("loss", MNIST), ours=1.0))) == once


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("<!-- begin: nothing -->\n<!-- end: nothing -->\n", "no section nothing"),
        ("<!-- begin: shapes -->\n", "no end for shapes"),
        ("plain", "no marked place"),
    ],
)
def test_filled_refuses_what_it_cannot_fill(document, message):
    with pytest.raises(ValueError, match=message):
        filled(document, run())


def test_phase_sampler_gives_the_phases_of_the_last_rounds():
    calls = []
    sampler = PhaseSampler(
        lambda: calls.append("forward") or "outputs",
        lambda outputs: calls.append(f"backward {outputs}"),
        lambda: calls.append("release"),
        prepare=lambda: calls.append("prepare"),
        restore=lambda: calls.append("restore"),
    )
    durations = [sampler() for _ in range(3)]
    assert calls == [*["prepare", "forward", "backward outputs", "release"] * 3, "restore"] * 3
    phases = sampler.phases(2)
    assert phases["step"] == durations[1:]
    assert [sum(parts) for parts in zip(phases["forward"], phases["backward"], strict=True)] == durations[1:]


def test_steady_sampler_times_the_last_of_three_steps(monkeypatch):
    durations = iter([10.0, 20.0, 3.0])
    now = [0.0]
    monkeypatch.setattr("timing.time.perf_counter", lambda: now[0])

    def step() -> None:
        now[0] += next(durations)

    assert steady_sampler(step)() == 3.0
    assert next(durations, None) is None


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "report.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_exits_with_1_where_there_is_a_regression(tmp_path):
    for name, seconds in (("before", 1.0), ("now", 1.3)):
        run(row(Case("loss", MNIST), ours=seconds)).write(tmp_path / name / "results.json")
    worse = report(tmp_path / "now", "--against", tmp_path / "before")
    assert worse.returncode == 1
    assert "REGRESSION" in worse.stdout
    assert report(tmp_path / "now", "--against", tmp_path / "before", "--threshold", 1.5).returncode == 0
    missing = report(tmp_path / "nowhere")
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1
