"""What was measured: rows of rivals, and a whole run of the suite, to and from JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from cases import Case, Shapes
from timing import Measurement

Json = dict[str, Any]


@dataclass
class Result:
    """One rival in one case.

    ``times`` is keyed by what was timed: ``"step"``, a whole step by the host's clock, ``"forward"``, ``"backward"``,
    its two parts, or ``"gpu"``, the time the GPU took for it. ``failure`` says why there are no times.
    """

    times: dict[str, Measurement] = field(default_factory=dict)
    peak_bytes: int | None = None
    saved_bytes: int | None = None
    launches: float | None = None
    busy_seconds: float | None = None
    failure: str | None = None


@dataclass
class Row:
    """One case with all its rivals, "ours" among them, on one number of threads.

    ``limits`` has what the machine allowed when the case was measured, by the names of ``limits.limits_now``.
    """

    case: Case
    results: dict[str, Result]
    threads: int = field(default_factory=torch.get_num_threads)
    limits: dict[str, float] = field(default_factory=dict)

    def time(self, rival: str, clock: str) -> Measurement | None:
        """The rival's measurement, ``None`` if it failed or was not a rival here."""
        result = self.results.get(rival)
        return None if result is None else result.times.get(clock)

    def ratio(self, rival: str, clock: str, ours: str = "ours") -> tuple[float, float] | None:
        """How many times as long as ours the rival takes: by the minima and by the medians."""
        base, other = self.time(ours, clock), self.time(rival, clock)
        if base is None or other is None:
            return None
        return other.minimum / base.minimum, other.median / base.median

    def rate(self, clock: str) -> float | None:
        """Bytes per second of ours, counted as an ideal pass needs them, over the minimum."""
        ours = self.time("ours", clock)
        return None if ours is None else self.case.ideal_bytes / ours.minimum

    def share(self, clock: str, limit: str) -> float | None:
        """The rate of ours over a limit, ``None`` where either is unknown."""
        rate, most = self.rate(clock), self.limits.get(limit)
        return None if rate is None or most is None else rate / most

    def as_json(self) -> Json:
        """The row with everything that was measured."""
        case = self.case
        return {
            "case": str(case),
            "operation": case.operation,
            "shapes": case.shapes.name,
            "latents": list(case.shapes.latents),
            "data": list(case.shapes.data),
            "dtype": case.dtype_name,
            "threads": self.threads,
            "ideal_bytes": case.ideal_bytes,
            "limits": self.limits,
            "rivals": {
                name: {key: value for key, value in asdict(result).items() if value is not None}
                for name, result in self.results.items()
            },
        }

    @classmethod
    def from_json(cls, content: Json) -> Row:
        """The row that ``as_json`` wrote."""
        shapes = Shapes(content["shapes"], tuple(content["latents"]), tuple(content["data"]))
        case = Case(content["operation"], shapes, getattr(torch, content["dtype"]))
        results = {
            name: Result(**{**result, "times": _measurements(result["times"])})
            for name, result in content["rivals"].items()
        }
        return cls(case, results, content["threads"], content["limits"])


@dataclass
class DtypeComparison:
    """A step of ours in each dtype, at the shapes of one case; the dtypes took turns."""

    title: str
    times: dict[str, Measurement]

    @classmethod
    def from_json(cls, content: Json) -> DtypeComparison:
        """The comparison that ``dataclasses.asdict`` wrote."""
        return cls(content["title"], _measurements(content["times"]))


@dataclass
class TrainingStep:
    """A whole training step of one model with each objective, and the objective alone at the same shapes."""

    model: str
    batch: int
    times: dict[str, Measurement]
    objective: dict[str, Measurement]

    @classmethod
    def from_json(cls, content: Json) -> TrainingStep:
        """The step that ``dataclasses.asdict`` wrote."""
        return cls(
            content["model"], content["batch"], _measurements(content["times"]), _measurements(content["objective"])
        )


@dataclass
class OutputLayer:
    """The output layer with the loss, by rival: time of a step, and what it holds beyond inputs and gradients."""

    layer: str
    times: dict[str, Measurement]
    peak_bytes: dict[str, int]

    @classmethod
    def from_json(cls, content: Json) -> OutputLayer:
        """The step that ``dataclasses.asdict`` wrote."""
        return cls(content["layer"], _measurements(content["times"]), content["peak_bytes"])


@dataclass
class Run:
    """Everything that one run of the suite measured."""

    machine: Json
    limits: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    sweep: list[Row] = field(default_factory=list)
    dtypes: list[DtypeComparison] = field(default_factory=list)
    training_steps: list[TrainingStep] = field(default_factory=list)
    output_layers: list[OutputLayer] = field(default_factory=list)
    overhead: dict[str, Measurement] = field(default_factory=dict)
    import_time: dict[str, Measurement] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the run as JSON."""
        write_json(
            path,
            self.machine,
            self.rows,
            limits=self.limits,
            sweep=[row.as_json() for row in self.sweep],
            dtypes=[asdict(comparison) for comparison in self.dtypes],
            training_steps=[asdict(step) for step in self.training_steps],
            output_layers=[asdict(layer) for layer in self.output_layers],
            overhead={name: asdict(value) for name, value in self.overhead.items()},
            import_time={name: asdict(value) for name, value in self.import_time.items()},
            problems=[*self.problems, *failures([*self.rows, *self.sweep])],
        )

    @classmethod
    def read(cls, path: Path) -> Run:
        """The run in a file, or in the results.json of a folder."""
        content = json.loads((path / "results.json" if path.is_dir() else path).read_text())
        return cls(
            content["machine"],
            content["limits"],
            [Row.from_json(row) for row in content["rows"]],
            [Row.from_json(row) for row in content["sweep"]],
            [DtypeComparison.from_json(comparison) for comparison in content["dtypes"]],
            [TrainingStep.from_json(step) for step in content["training_steps"]],
            [OutputLayer.from_json(layer) for layer in content["output_layers"]],
            _measurements(content["overhead"]),
            _measurements(content["import_time"]),
            content["problems"],
        )


def _measurements(content: Mapping[str, Json]) -> dict[str, Measurement]:
    return {name: Measurement(**value) for name, value in content.items()}


def write_json(path: Path, facts: Json, rows: Sequence[Row], **more: Any) -> None:
    """Write the machine, what else is known of the run, and all rows."""
    content = {"machine": facts, **more, "rows": [row.as_json() for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def first_line(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def failures(rows: Sequence[Row]) -> list[str]:
    """One line for each rival that failed."""
    return [f"{row.case}: {name} failed: {result.failure}"
            for row in rows for name, result in row.results.items() if result.failure is not None]  # fmt: skip
