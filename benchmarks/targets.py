"""The targets of the CPU and whether a run reaches them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cases import TERMS
from comparison import IN_PLACE, NO_POOL, TRIAD
from overhead import MOST_TIMES_NATIVE
from results import Row, Run

_MOST_CYCLES_A_NORMAL = 3.5
_LEAST_SHARE_OF_TRIAD = 0.9


@dataclass(frozen=True)
class RatioTarget:
    """How many times as long as ours a rival has to take in a case."""

    title: str
    case: str
    rival: str
    least: float
    ours: str = "ours"


_DRAM = "sampling + KL, 8192x512"
_IMAGES = "MSE + KL on 50 MB"
RATIO_TARGETS = (
    RatioTarget(_DRAM, "sampling-wide-float32", "eager", 11.0),
    RatioTarget(_DRAM, "sampling-wide-float32", "compile", 15.0),
    RatioTarget(f"{_IMAGES}, pool off", "loss-images-float32", "eager", 6.0, NO_POOL),
    RatioTarget(f"{_IMAGES}, pool off", "loss-images-float32", "compile", 3.0, NO_POOL),
    RatioTarget(f"{_IMAGES}, pool", "loss-images-float32", "eager", 10.0),
    RatioTarget(f"{_IMAGES}, pool", "loss-images-float32", "compile", 7.0),
    RatioTarget(f"{_IMAGES}, in place", "loss-images-float32", "eager", 12.0, IN_PLACE),
    RatioTarget(f"{_IMAGES}, in place", "loss-images-float32", "compile", 8.0, IN_PLACE),
    RatioTarget("whole objective, 128x20 and 128x784", "objective-mnist-float32", "eager", 3.5),
    RatioTarget("whole objective, 128x20 and 128x784", "objective-mnist-float32", "compile", 4.0),
    *(RatioTarget(f"{term}, 128x784", f"{term}-mnist-float32", "eager", 2.0) for term in TERMS),
    *(RatioTarget(f"{term}, 8192x512", f"{term}-wide-float32", "eager", 5.0) for term in TERMS),
)


@dataclass(frozen=True)
class Outcome:
    """A target beside what was measured: ``reached`` is None where nothing was."""

    title: str
    measure: str
    target: str
    measured: str
    reached: bool | None


def ratio_outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Each target that is a ratio of times; the minima decide."""
    by_name = {str(row.case): row for row in rows}
    outcomes = []
    for target in RATIO_TARGETS:
        row = by_name.get(target.case)
        ratio = None if row is None else row.ratio(target.rival, "step", target.ours)
        outcomes.append(
            Outcome(
                target.title,
                f"{target.rival} / ours",
                f"at least {target.least:g}",
                "-" if ratio is None else f"{ratio[0]:.2f} ({ratio[1]:.2f})",
                None if ratio is None else ratio[0] >= target.least,
            )
        )
    return outcomes


def limit_outcomes(run: Run) -> list[Outcome]:
    """Each target against a limit of the machine that the same run has measured."""
    outcomes = []
    row = next((row for row in run.rows if str(row.case) == "loss-images-float32"), None)
    share = None if row is None else row.ratio(TRIAD, "step")
    outcomes.append(
        Outcome(
            f"{_IMAGES}, pool",
            "share of triad",
            f"at least {_LEAST_SHARE_OF_TRIAD:.0%}",
            "-" if share is None else f"{share[0]:.0%} ({share[1]:.0%})",
            None if share is None else share[0] >= _LEAST_SHARE_OF_TRIAD,
        )
    )
    hertz, normals = run.limits.get("cycles_per_second"), run.limits.get("normals_per_second_one_thread")
    cycles = None if hertz is None or normals is None else hertz / normals
    outcomes.append(
        Outcome(
            "standard normals, one thread, in L2",
            "cycles a normal",
            f"at most {_MOST_CYCLES_A_NORMAL:g}",
            "-" if cycles is None else f"{cycles:.2f}",
            None if cycles is None else cycles <= _MOST_CYCLES_A_NORMAL,
        )
    )
    ours, native = run.overhead.get("ours"), run.overhead.get("native")
    times = None if ours is None or native is None else ours.minimum / native.minimum
    outcomes.append(
        Outcome(
            "whole objective, 4x4",
            "times the native graph",
            f"at most {MOST_TIMES_NATIVE:g}",
            "-" if times is None else f"{times:.2f}",
            None if times is None else times <= MOST_TIMES_NATIVE,
        )
    )
    return outcomes
