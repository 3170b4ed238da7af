"""Completes results.json with what the steps of gpu.sh showed, and writes summary.md from it.

python benchmarks/gpu_report.py OUT_DIR STEPS_FILE SECONDS
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tables import markdown_table, seconds

_RIVALS = ("ours", "eager", "compile", "reduce-overhead")
Json = dict[str, Any]


def _machine() -> Json:
    """The facts of this machine; without a build, which knows the rest, the GPU alone."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        from machine import machine_facts

        return machine_facts(device)
    except ImportError:
        return {"gpu": torch.cuda.get_device_name()} if device.type == "cuda" else {}


def _machine_line(facts: Json) -> str:
    if "vae_fused" not in facts:
        return f"torch {torch.__version__}, no build of vae_fused"
    from machine import machine_line

    return machine_line(facts)


def _steps(file: Path) -> list[Json]:
    lines = (line.split("\t") for line in file.read_text().splitlines())
    return [{"step": name, "result": result, "seconds": int(duration)} for name, result, duration in lines]


def _tests(file: Path) -> Json | None:
    if not file.is_file():
        return None
    try:
        suite = ElementTree.parse(file).getroot().find("testsuite")
    except ElementTree.ParseError:  # cut short while it was written
        return None
    if suite is None:
        return None
    return {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}


def _sanitizer(file: Path) -> list[str]:
    if not file.is_file():
        return []
    return [line.strip("= \n") for line in file.read_text(errors="replace").splitlines() if "SUMMARY" in line]


def _median(rival: Json | None, clock: str) -> float | None:
    return None if rival is None or clock not in rival.get("times", {}) else float(rival["times"][clock]["median"])


def _time(rival: Json | None, clock: str) -> str:
    median = _median(rival, clock)
    if median is not None:
        return seconds(median)
    return "failed" if rival is not None and "failure" in rival else "-"


def _ratio(rivals: Json, name: str, clock: str) -> str:
    ours, other = _median(rivals.get("ours"), clock), _median(rivals.get(name), clock)
    return "-" if ours is None or other is None else f"{other / ours:.2f}x"


def _table(header: Sequence[str], rows: Sequence[Json], line: Callable[[Json], list[str]]) -> str:
    full_header = ["case", "dtype", *header]
    return markdown_table(full_header, [[row["case"].rsplit("-", 1)[0], row["dtype"], *line(row)] for row in rows])


def _times_and_ratios(row: Json, clock: str) -> list[str]:
    rivals = row["rivals"]
    times = [_time(rivals.get(name), clock) for name in _RIVALS]
    return times + [_ratio(rivals, name, clock) for name in _RIVALS[1:]]


def _megabytes(rivals: Json, key: str) -> str:
    values = (rivals.get(name, {}).get(key) for name in _RIVALS[:3])
    return " / ".join("-" if value is None else f"{value / 1e6:.4g}" for value in values)


def _results_sections(results: Json) -> list[str]:
    rows, copy = results["rows"], results["copy_bytes_per_second"]
    ratios = [f"{name} / ours" for name in _RIVALS[1:]]

    def of_copy(row: Json) -> str:
        median = _median(row["rivals"].get("ours"), "gpu")
        return "-" if median is None else f"{row['ideal_bytes'] / median / copy:.1%}"

    parts = [
        "## GPU time of forward + backward",
        f"Medians of CUDA events, the L2 cache overwritten before each step, launches queued ahead. Copying memory "
        f"reaches {copy / 1e12:.3f} TB/s in this run; the last column is the traffic of an ideal pass over the time of "
        "ours, as a share of that.",
        _table([*_RIVALS, *ratios, "of copy rate"], rows, lambda row: [*_times_and_ratios(row, "gpu"), of_copy(row)]),
        "## A whole step, launches included",
        "Medians of consecutive steps by the host's clock, as a training loop sees them.",
        _table([*_RIVALS, *ratios], rows, lambda row: _times_and_ratios(row, "step")),
        "## Memory of a step beyond its inputs",
        "MB in the order ours / eager / compile: the peak, and what the forward keeps beyond its inputs and outputs "
        "(for ours that is the gradient of recon, computed in the same pass).",
        _table(["peak", "saved"], rows, lambda row: [_megabytes(row["rivals"], "peak_bytes"),
                                                     _megabytes(row["rivals"], "saved_bytes")]),
    ]  # fmt: skip
    profiled = [
        [row["case"].rsplit("-", 1)[0], row["dtype"], name, f"{rival['launches']:.1f}", seconds(rival["busy_seconds"]),
         _time(rival, "gpu"), _time(rival, "step")]
        for row in rows for name, rival in row["rivals"].items() if "launches" in rival
    ]  # fmt: skip
    if profiled:
        parts += [
            "## Launches and GPU time of the whole objective",
            "Kernels, copies and fills of one step and the time the GPU is busy with them, from the profiler; then the "
            "two times of the tables above. \"graph\" is the step captured as a CUDA graph, replayed in one launch.",
            markdown_table(["case", "dtype", "rival", "kernels", "busy", "GPU time", "step"], profiled),
        ]  # fmt: skip
    if results["problems"]:
        parts += ["## Problems", "\n".join(f"- {problem}" for problem in results["problems"])]
    return parts


def summary(results: Json) -> str:
    """The readable form of results.json."""
    steps = [[step["step"], step["result"], str(step["seconds"])] for step in results["steps"]]
    parts = [
        f"# vae_fused on {results['machine'].get('gpu', 'the CPU')}",
        _machine_line(results["machine"]),
        f"Steps, {results['seconds']} s in all:",
        markdown_table(["step", "result", "seconds"], steps),
    ]
    if results["tests"] is not None:
        parts.append("CUDA tests: {tests} run, {failures} failed, {errors} errors, {skipped} skipped."
                     .format(**results["tests"]))  # fmt: skip
    if results["sanitizer"]:
        parts.append("\n".join(f"- {line}" for line in results["sanitizer"]))
    if "rows" in results:
        parts += _results_sections(results)
    else:
        parts.append("The benchmarks wrote no results.")
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Write results.json and summary.md."""
    out_dir, steps_file, duration = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    file = out_dir / "results.json"
    if file.is_file():
        results = json.loads(file.read_text())
    else:
        results = {"machine": _machine()}
    results["seconds"] = duration
    results["steps"] = _steps(steps_file)
    results["tests"] = _tests(out_dir / "tests.xml")
    results["sanitizer"] = _sanitizer(out_dir / "sanitizer.log")
    file.write_text(json.dumps(results, indent=1) + "\n")
    text = summary(results)
    (out_dir / "summary.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
