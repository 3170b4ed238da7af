"""How a ratio to ours runs with the size of the problem and the number of threads: where it crosses 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from results import Row

Points = Sequence[tuple[int, float]]  # (elements, ratio), ratio above 1: ours is faster


def points(rows: Sequence[Row], operation: str, threads: int, rival: str) -> list[tuple[int, float]]:
    """The ratio of the minima at each size, smallest size first."""
    chosen = [row for row in rows if row.case.operation == operation and row.threads == threads]
    ratios = [(row.case.latent_elements, row.ratio(rival, "step")) for row in chosen]
    return sorted((elements, ratio[0]) for elements, ratio in ratios if ratio is not None)


def crossovers(values: Points) -> list[float]:
    """The sizes at which the ratio crosses 1, interpolated on logarithmic axes."""
    found = []
    for (elements, ratio), (next_elements, next_ratio) in pairwise(values):
        if (ratio < 1) != (next_ratio < 1):
            share = math.log(ratio) / (math.log(ratio) - math.log(next_ratio))
            found.append(elements * (next_elements / elements) ** share)
    return found


def verdict(values: Points, least: float = 1.0) -> str:
    """In words: at no size slower, or where the ratio is below ``least``, and where it crosses 1."""
    if not values:
        return "not measured"
    slower = [f"{elements} elements ({ratio:.2f}x)" for elements, ratio in values if ratio < least]
    if not slower:
        return "slower at no size"
    crossing = ", ".join(f"{elements:.3g}" for elements in crossovers(values))
    return f"SLOWER at {', '.join(slower)}" + (f"; crossover near {crossing} elements" if crossing else "")


def thread_gains(rows: Sequence[Row], operation: str, threads: int) -> list[tuple[int, float]]:
    """How many times as long ours takes on one thread as on ``threads``, at each size."""

    def times(count: int) -> dict[int, float]:
        found = {}
        for row in rows:
            measured = row.time("ours", "step")
            if row.case.operation == operation and row.threads == count and measured is not None:
                found[row.case.latent_elements] = measured.minimum
        return found

    one, many = times(1), times(threads)
    return sorted((elements, one[elements] / many[elements]) for elements in one.keys() & many.keys())
