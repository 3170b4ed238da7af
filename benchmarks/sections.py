"""The parts of the report, each as Markdown, from a whole run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import scaling
from cases import OPERATIONS
from comparison import IN_PLACE, NO_POOL, TRIAD
from import_time import MOST_SECONDS_ADDED, import_line
from machine import machine_line
from overhead import overhead_line
from results import OutputLayer, Row, Run
from tables import markdown_table, peak_cell, ratio_cell, seconds, share_cell, time_cell, time_text
from targets import limit_outcomes, ratio_outcomes
from timing import Measurement

_RIVALS = ("ours", "eager", "compile")
_SWEEP_RIVALS = ("eager", "compile")
# Rivals are interleaved, numbers of threads are not: this much is noise between them.
_LEAST_GAIN = 0.9


def machine(run: Run) -> str:
    """What was run on what, and the limits measured beside it."""
    limits, rows = run.limits, (*run.rows, *run.sweep)
    triads = [(row, row.time(TRIAD, "step")) for row in rows]
    rates = {
        "copy": [row.limits["copy_bytes_per_second"] for row in rows if "copy_bytes_per_second" in row.limits],
        "triad past the caches": [row.case.ideal_bytes / time.minimum for row, time in triads if time is not None],
    }
    lines = [f"`{machine_line(run.machine)}`", ""]
    for name, found in rates.items():
        if found:
            least, most, median = (1e-9 * rate for rate in (min(found), max(found), statistics.median(found)))
            lines.append(f"- {name}: {least:.1f} to {most:.1f} GB/s beside {len(found)} cases, median {median:.1f}")
    if "cycles_per_second" in limits:
        lines.append(f"- clock of one core: {limits['cycles_per_second'] / 1e9:.2f} GHz")
    if "normals_per_second" in limits:
        one, all_ = limits["normals_per_second_one_thread"], limits["normals_per_second"]
        lines.append(f"- standard normals: {one / 1e9:.2f} G/s on one thread, {all_ / 1e9:.2f} G/s on all")
    return "\n".join([*lines, *(f"- PROBLEM: {problem}" for problem in run.problems)])


def comparison_table(rows: Sequence[Row]) -> str:
    """Times, ratios, share of the copy rate and peak memory, one line a case."""
    lines = [[
        row.case.title,
        row.case.dtype_name,
        *(time_cell(row, rival, "step") for rival in ("ours", NO_POOL, IN_PLACE, "eager", "compile")),
        *(ratio_cell(row, rival, "step") for rival in ("eager", "compile")),
        *(ratio_cell(row, rival, "step", NO_POOL) for rival in ("eager", "compile")),
        share_cell(row, "copy_bytes_per_second"),
        peak_cell(row, _RIVALS),
    ] for row in rows]  # fmt: skip
    header = ["case", "dtype", "ours", "pool off", "in place", "eager", "compile", "eager / ours", "compile / ours",
              "eager / pool off", "compile / pool off", "of copy", "peak MB"]  # fmt: skip
    return markdown_table(header, lines)


def targets_table(run: Run) -> str:
    """Each target with what was measured."""
    words = {True: "yes", False: "NO", None: "not measured"}
    lines = [
        [outcome.title, outcome.measure, outcome.target, outcome.measured, words[outcome.reached]]
        for outcome in (*ratio_outcomes(run.rows), *limit_outcomes(run))
    ]
    return markdown_table(["target", "measure", "asked", "measured", "reached"], lines)


def shapes_table(run: Run) -> str:
    """The names of the shapes."""
    shapes = {row.case.shapes.name: row.case.shapes for row in run.rows}
    lines = [[name, "x".join(map(str, s.latents)), "x".join(map(str, s.data))] for name, s in shapes.items()]
    return markdown_table(["name", "latents", "data"], lines)


def _of_dtype(run: Run, *names: str) -> list[Row]:
    return [row for row in run.rows if row.case.dtype_name in names]


def phases_table(run: Run) -> str:
    """Forward and backward apart, float32."""
    lines = [
        [row.case.title, *(time_cell(row, rival, clock) for clock in ("forward", "backward") for rival in _RIVALS)]
        for row in _of_dtype(run, "float32")
    ]
    return markdown_table(["case", *(f"{rival}, {clock}" for clock in ("forward", "backward") for rival in _RIVALS)],
                          lines)  # fmt: skip


def prediction_table(run: Run) -> str:
    """The time that the limits of the machine allow, beside the time of ours, for float32 past the caches."""
    lines = []
    for row in _of_dtype(run, "float32"):
        ours, triad, normals = row.time("ours", "step"), row.time(TRIAD, "step"), row.limits.get("normals_per_second")
        if ours is None or triad is None or normals is None:
            continue
        case, noise = row.case, row.case.normals / normals
        predicted, as_a_rule = max(triad.minimum, noise), max(triad.median, noise)
        lines.append([
            case.title,
            f"{case.ideal_bytes / 1e6:.1f}",
            f"{1e-9 * case.ideal_bytes / triad.minimum:.1f}",
            seconds(triad.minimum),
            f"{case.normals / 1e6:.2f}",
            f"{1e-9 * normals:.2f}",
            seconds(noise),
            seconds(predicted),
            seconds(ours.minimum),
            f"{predicted / ours.minimum:.0%} ({as_a_rule / ours.median:.0%})",
        ])  # fmt: skip
    header = ["case", "MB", "triad, GB/s", "time for them", "10^6 normals", "10^9 a second", "time for them",
              "predicted", "measured", "of the limit"]  # fmt: skip
    return markdown_table(header, lines)


def dtypes_table(run: Run) -> str:
    """Elements per second of each dtype, as a multiple of float32's: by the minima, and by the medians."""

    def cell(times: Mapping[str, Measurement], dtype: str) -> str:
        if dtype not in times:
            return "-"
        base, other = times["float32"], times[dtype]
        return f"{base.minimum / other.minimum:.2f} ({base.median / other.median:.2f})"

    dtypes = ("bfloat16", "float16", "float64")
    return markdown_table(
        ["case", "float32", *dtypes],
        [[one.title, time_text(one.times["float32"]), *(cell(one.times, dtype) for dtype in dtypes)]
         for one in run.dtypes],
    )  # fmt: skip


def sweep(run: Run) -> str:
    """The ratio at every size and number of threads, and where it falls below 1."""
    counts = sorted({row.threads for row in run.sweep})
    operations = [name for name in OPERATIONS if any(row.case.operation == name for row in run.sweep)]
    columns = [(rival, count) for rival in _SWEEP_RIVALS for count in counts]
    parts = []
    for operation in operations:
        series = {column: dict(scaling.points(run.sweep, operation, column[1], column[0])) for column in columns}
        ours = {
            (row.case.latent_elements, row.threads): row.time("ours", "step")
            for row in run.sweep if row.case.operation == operation
        }  # fmt: skip
        lines = []
        for elements in sorted({elements for elements, _ in ours}):
            times = [ours.get((elements, count)) for count in counts]
            ratios = [series[column].get(elements) for column in columns]
            lines.append([
                str(elements),
                *("-" if time is None else seconds(time.minimum) for time in times),
                *("-" if ratio is None else f"{ratio:.2f}x" for ratio in ratios),
            ])  # fmt: skip
        header = ["elements", *(f"ours, {_threads(count)}" for count in counts),
                  *(f"{rival} / ours, {_threads(count)}" for rival, count in columns)]  # fmt: skip
        verdicts = [f"- against {rival}, {_threads(count)}: {scaling.verdict(sorted(series[rival, count].items()))}"
                    for rival, count in columns]  # fmt: skip
        if len(counts) > 1:
            gains = scaling.thread_gains(run.sweep, operation, counts[-1])
            verdicts.append(f"- {_threads(counts[-1])} against 1, ours: {scaling.verdict(gains, _LEAST_GAIN)}")
        parts += [f"**{OPERATIONS[operation].title}**", markdown_table(header, lines), "\n".join(verdicts)]
    return "\n\n".join(parts)


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"


def training_steps(run: Run) -> str:
    """Whole steps, and the objective's share of them."""
    header = ["model", "batch", "objective", "step", "ours is faster", "objective alone", "share of the step"]
    lines = []
    for step in run.training_steps:
        for name, time in step.times.items():
            alone = step.objective.get({"compile, ours": "ours"}.get(name, name))
            lines.append([
                step.model, str(step.batch), name, time_text(time),
                f"{time.minimum / step.times['ours'].minimum:.2f}x ({time.median / step.times['ours'].median:.2f}x)",
                "-" if alone is None else seconds(alone.minimum),
                "-" if alone is None else f"{alone.minimum / time.minimum:.2%}",
            ])  # fmt: skip
    return markdown_table(header, lines)


def output_layer_table(layers: Sequence[OutputLayer]) -> str:
    """The last Linear with the loss, fused and not."""
    lines = []
    for measured in layers:
        ours, least = measured.times["ours"], measured.peak_bytes["ours"]
        for name, time in measured.times.items():
            peak = measured.peak_bytes[name]
            lines.append([
                measured.layer, name, time_text(time),
                f"{time.minimum / ours.minimum:.2f}x ({time.median / ours.median:.2f}x)",
                f"{peak / 1e6:.3g}", f"{peak / least:.3g}x",
            ])  # fmt: skip
    return markdown_table(["layer", "rival", "step", "of ours", "peak MB", "of ours"], lines)


def start_up(run: Run) -> str:
    """The cost of a call and of the import."""
    lines = []
    if run.overhead:
        lines.append(f"- {overhead_line(run.overhead)}")
    if run.import_time:
        reached = run.import_time["added"].median <= MOST_SECONDS_ADDED
        lines.append(f"- {import_line(run.import_time)}: {'reached' if reached else 'MISSED'}")
    return "\n".join(lines)


SECTIONS: dict[str, Callable[[Run], str]] = {
    "machine": machine,
    "targets": targets_table,
    "shapes": shapes_table,
    "float32": lambda run: comparison_table(_of_dtype(run, "float32")),
    "prediction": prediction_table,
    "phases": phases_table,
    "dtypes": dtypes_table,
    "other dtypes": lambda run: comparison_table(_of_dtype(run, "bfloat16", "float16", "float64")),
    "sweep": sweep,
    "training step": training_steps,
    "output layer": lambda run: output_layer_table(run.output_layers),
    "start-up": start_up,
}
