"""The table of peers: their number, ours, and both times.

    OMP_NUM_THREADS=1 python benchmarks/peer_table.py [--seconds 2] [--write docs/peers.md]

needs ``pip install '.[peers]'``. ``--write`` puts the table between the lines ``<!-- begin: peers -->`` and
``<!-- end: peers -->`` of a document. Times are those of a step with its backward, the minimum over rounds in which
peer and ours took turns, in one process; those of one thread bear a busy machine better.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from documents import fill
from machine import machine_facts, machine_line, missing_kernels
from peer_cases import PeerCase, peer_cases
from tables import markdown_table, seconds
from timing import Measurement, interleave, steady_sampler

_MOST_ROUNDS = 1000
_HEADER = (
    "peer", "version", "quantity", "peer's value", "ours", "relative difference", "timed step", "peer's time", "ours",
    "peer / ours",
)  # fmt: skip


def _difference(theirs: float, ours: float) -> str:
    return f"{abs(ours - theirs) / abs(theirs):.1e}" if theirs not in (0.0, float("inf")) else "-"


def _times(case: PeerCase, duration: float) -> tuple[Measurement, Measurement]:
    def sampler(step):
        def run() -> None:
            step().backward()
            for leaf in case.leaves:
                leaf.grad = None

        return steady_sampler(run)

    names = "peer", "ours"
    durations = interleave(dict(zip(names, map(sampler, case.steps), strict=True)), duration, _MOST_ROUNDS)
    peer, ours = (Measurement.of(durations[name]) for name in names)
    return peer, ours


def _line(case: PeerCase, duration: float) -> tuple[str, ...]:
    theirs, ours = (float(value().detach()) for value in case.values)
    peer_time, our_time = _times(case, duration)
    return (
        case.peer, case.version, case.quantity, f"{theirs:.7g}", f"{ours:.7g}", case.note or _difference(theirs, ours),
        case.step, seconds(peer_time.minimum), seconds(our_time.minimum),
        f"{peer_time.minimum / our_time.minimum:.2f}",
    )  # fmt: skip


def table(duration: float) -> str:
    """The comparisons as a table, ``duration`` seconds of timing each, under a line with the machine."""
    lines = [_line(case, duration) for case in peer_cases()]
    return f"{machine_line(machine_facts(torch.device('cpu')))}\n\n{markdown_table(_HEADER, lines)}"


def main() -> int:
    """0, or 1 if the document has no place for the table."""
    parser = argparse.ArgumentParser(description="peers beside vae_fused: values and times")
    parser.add_argument("--seconds", type=float, default=2.0, help="timing of each comparison (default 2)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into a Markdown document")
    arguments = parser.parse_args()
    warning = missing_kernels(machine_facts(torch.device("cpu")))
    if warning is not None:
        print(warning, file=sys.stderr)
    text = table(arguments.seconds)
    if arguments.write is None:
        print(text)
        return 0
    try:
        arguments.write.write_text(fill(arguments.write.read_text(), {"peers": lambda: text}))
    except (OSError, ValueError) as error:
        print(f"peer_table.py: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
