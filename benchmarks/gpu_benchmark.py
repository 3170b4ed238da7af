"""The GPU benchmarks: ours against eager, torch.compile, its reduce-overhead mode, and CUDA graphs of them.

    python benchmarks/gpu_benchmark.py OUT_DIR [--seconds 120]

writes OUT_DIR/results.json after every case, so that a run cut short keeps what it has. ``--dry-run`` goes the same way
on a CPU with the smallest cases, to show that the script itself works; what only a GPU has is left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cases import GPU_CASES, MNIST, OPERATIONS, Case, make_inputs
from gpu_timing import EventTimer, captured, launches_and_busy_seconds, loop_sampler
from machine import machine_facts, machine_line, missing_kernels
from memory import peak_bytes, saved_bytes_cuda
from results import Result, Row, failures, first_line, write_json
from rivals import EAGER, OURS, Step, check_agreement, compiled_step
from timing import Measurement, Sampler, copy_rate, host_sampler, interleave

_SECONDS_A_CLOCK = 0.5
_MOST_ROUNDS = 200
_WARM_UP_STEPS = 5  # reduce-overhead records its graphs within the first few

SamplerMaker = Callable[[Callable[[], None]], Sampler]


def _steps(case: Case, device: torch.device, results: dict[str, Result]) -> dict[str, Callable[[], None]]:
    """The rivals that work, each warm, and a result for each rival; what fails leaves its reason there."""
    inputs = make_inputs(case, device)
    check_agreement(case, inputs)
    builders: dict[str, Callable[[], Step]] = {
        "ours": lambda: Step(OURS[case.operation], case, inputs),
        "eager": lambda: Step(EAGER[case.operation], case, inputs),
        "compile": lambda: compiled_step(case, inputs),
    }
    if device.type == "cuda":
        builders["reduce-overhead"] = lambda: compiled_step(case, inputs, mode="reduce-overhead")
    steps: dict[str, Callable[[], None]] = {}
    for name, build in builders.items():
        results[name] = Result()
        try:
            step = build()
            for _ in range(_WARM_UP_STEPS):
                step()
            if name != "reduce-overhead":  # its graphs keep their memory from step to step, so a step adds none
                results[name].peak_bytes = peak_bytes(step, device)
                if device.type == "cuda":
                    results[name].saved_bytes = saved_bytes_cuda(step, device)
            steps[name] = step
        except Exception as error:
            results[name].failure = first_line(error)
    if device.type == "cuda" and case.operation == "objective" and case.shapes is MNIST:
        for name in [name for name in ("ours", "eager", "compile") if name in steps]:
            graph_name = f"{name} graph"
            results[graph_name] = Result()
            try:
                steps[graph_name] = captured(steps[name])
            except Exception as error:
                results[graph_name].failure = first_line(error)
    return steps


def _measure(case: Case, device: torch.device, clocks: dict[str, SamplerMaker]) -> Row:
    torch.manual_seed(0)
    torch._dynamo.reset()  # else the shapes of the case before make the compiler generalize over shapes
    results: dict[str, Result] = {}
    steps = _steps(case, device, results)
    for clock, make_sampler in clocks.items():
        samplers = {}
        for name, step in steps.items():
            sampler = make_sampler(step)
            try:
                sampler()
                samplers[name] = sampler
            except RuntimeError as error:
                results[name].failure = first_line(error)
        for name, durations in interleave(samplers, _SECONDS_A_CLOCK, _MOST_ROUNDS).items():
            results[name].times[clock] = Measurement.of(durations)
    if device.type == "cuda" and case.operation == "objective":
        for name, step in steps.items():
            try:
                results[name].launches, results[name].busy_seconds = launches_and_busy_seconds(step)
            except (RuntimeError, KeyError) as error:  # a profiler without access: the times are still right
                results[name].failure = first_line(error)
    return Row(case, results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the GPU benchmarks of vae_fused")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder for results.json")
    parser.add_argument("--seconds", type=float, default=120.0, help="begin no further case after this (default 120)")
    parser.add_argument("--dry-run", action="store_true", help="the smallest cases on the CPU, to try the script out")
    arguments = parser.parse_args()
    if not arguments.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device is available; --dry-run tries the script out on the CPU")
    return arguments


def main() -> int:
    """Run all cases; 1 if a case or a rival failed, or if ours has no kernels here, else 0."""
    arguments = _arguments()
    end = time.monotonic() + arguments.seconds
    device = torch.device("cpu" if arguments.dry_run else "cuda")
    facts = machine_facts(device)
    print(machine_line(facts), flush=True)
    if device.type == "cuda":
        gpu_sampler = EventTimer(device).sampler
        clocks: dict[str, SamplerMaker] = {"gpu": gpu_sampler, "step": loop_sampler}
        bytes_per_second = copy_rate(gpu_sampler, device)
        cases: tuple[Case, ...] = GPU_CASES
    else:
        clocks = {"step": host_sampler}
        bytes_per_second = copy_rate(host_sampler, device)
        cases = tuple(case for case in GPU_CASES if case.shapes is MNIST)
    warning = missing_kernels(facts)
    problems = [] if warning is None else [warning]
    rows: list[Row] = []
    for case in cases:
        if time.monotonic() > end:
            problems.append(f"{case}: not run, {arguments.seconds:.0f} s were over")
            continue
        begin = time.monotonic()
        try:
            rows.append(_measure(case, device, clocks))
        except Exception as error:
            problems.append(f"{case}: {first_line(error)}")
        if device.type == "cuda":
            torch.cuda.empty_cache()
        write_json(
            arguments.out_dir / "results.json", facts, rows, copy_bytes_per_second=bytes_per_second,
            problems=[*problems, *failures(rows)],
        )  # fmt: skip
        print(f"{case} ({OPERATIONS[case.operation].title}): {time.monotonic() - begin:.1f} s", flush=True)
    problems += failures(rows)
    write_json(
        arguments.out_dir / "results.json", facts, rows, copy_bytes_per_second=bytes_per_second, problems=problems
    )
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
