"""The plots of a run: ratios and share of the copy rate by case, the sweep over sizes, and the training steps."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import scaling
from cases import OPERATIONS
from comparison import NO_POOL
from results import Row, Run

_COLOURS = {"ours": "#0072b2", NO_POOL: "#56b4e9", "eager": "#d55e00", "compile": "#e69f00", "compile, ours": "#009e73"}
_LINES = ("-", "--", ":", "-.")


def draw_all(run: Run, folder: Path) -> list[Path]:
    """Draw what the run has; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    single = [row for row in run.rows if row.case.dtype_name == "float32"]
    for name, rows, draw in (
        ("cases", single, lambda: _draw_cases(single)),
        ("copy_rate", run.rows, lambda: _draw_share(run)),
        ("sweep", run.sweep, lambda: _draw_sweep(run)),
        ("training_step", run.training_steps, lambda: _draw_training_steps(run)),
    ):
        if rows:
            figure = draw()
            file = folder / f"{name}.png"
            figure.savefig(file, dpi=120, bbox_inches="tight")
            plt.close(figure)
            drawn.append(file)
    return drawn


def _draw_cases(rows: list[Row]) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(rows) + 1))
    bars = (("eager", "ours"), ("compile", "ours"), ("eager", NO_POOL), ("compile", NO_POOL))
    for index, (rival, ours) in enumerate(bars):
        ratios = [row.ratio(rival, "step", ours) for row in rows]
        axes.barh(
            [place + (index - 1.5) * 0.2 for place in range(len(rows))],
            [0.0 if ratio is None else ratio[0] for ratio in ratios],
            height=0.2,
            color=_COLOURS[rival],
            alpha=1.0 if ours == "ours" else 0.5,
            label=f"{rival} / {ours}",
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.case.title for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("times as long as ours, forward + backward, float32 (minima)")
    axes.legend()
    return figure


def _draw_share(run: Run) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(8, 5))
    for dtype in sorted({row.case.dtype_name for row in run.rows}):
        rows = [row for row in run.rows if row.case.dtype_name == dtype]
        shares = [(row.case.ideal_bytes, row.share("step", "copy_bytes_per_second")) for row in rows]
        known = [(size, share) for size, share in shares if share is not None]
        axes.scatter(*zip(*known, strict=True), label=dtype)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("bytes that an ideal forward + backward moves")
    axes.set_ylabel("rate of ours over the copy rate from memory")
    axes.legend()
    return figure


def _draw_sweep(run: Run) -> plt.Figure:
    counts = sorted({row.threads for row in run.sweep})
    operations = [name for name in OPERATIONS if any(row.case.operation == name for row in run.sweep)]
    figure, grid = plt.subplots(1, len(operations), figsize=(5 * len(operations), 4), sharey=True, squeeze=False)
    for axes, operation in zip(grid[0], operations, strict=True):
        for rival in ("eager", "compile"):
            for count, line in zip(counts, _LINES, strict=False):
                values = scaling.points(run.sweep, operation, count, rival)
                if values:
                    label = f"{rival} / ours, threads: {count}"
                    axes.plot(*zip(*values, strict=True), line, color=_COLOURS[rival], marker=".", label=label)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(OPERATIONS[operation].title)
        axes.set_xlabel("elements of each tensor")
    grid[0][0].set_ylabel("times as long as ours")
    grid[0][0].legend(fontsize="small")
    return figure


def _draw_training_steps(run: Run) -> plt.Figure:
    steps = run.training_steps
    figure, grid = plt.subplots(1, len(steps), figsize=(5 * len(steps), 3.5), squeeze=False)
    for axes, step in zip(grid[0], steps, strict=True):
        names = list(step.times)
        axes.bar(names, [1e3 * step.times[name].minimum for name in names], color=[_COLOURS[name] for name in names])
        alone = [step.objective.get(name) for name in names]
        heights = [0.0 if time is None else 1e3 * time.minimum for time in alone]
        axes.bar(names, heights, color="none", edgecolor="black", hatch="//", label="the objective alone")
        axes.set_title(f"{step.model}, batch {step.batch}")
        axes.set_ylabel("ms a step")
        axes.legend(fontsize="small")
    return figure
