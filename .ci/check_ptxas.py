"""Reads a build log with ptxas' verbose output, prints a table of the kernels, and fails if one of them spills.

Usage: python .ci/check_ptxas.py BUILD_LOG
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ENTRY = re.compile(r"Compiling entry function '(?P<name>\w+)' for '(?P<architecture>\w+)'")
PROPERTIES = re.compile(r"Function properties for (?P<name>\w+)")
FRAME = re.compile(r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill")
REGISTERS = re.compile(r"Used (?P<registers>\d+) registers")
SHARED = re.compile(r"(\d+)(?:\+\d+)? bytes smem")


@dataclass
class Kernel:
    """What ptxas says of one kernel on one architecture; -1 where it said nothing."""

    name: str
    architecture: str
    registers: int = -1
    stack: int = -1
    spill: int = -1
    shared: int = 0

    @property
    def complete(self) -> bool:
        return min(self.registers, self.stack, self.spill) >= 0

    @property
    def clean(self) -> bool:
        return self.complete and self.stack == 0 and self.spill == 0


def parse(log: str) -> list[Kernel]:
    kernels: list[Kernel] = []
    described = ""
    for line in log.splitlines():
        if match := ENTRY.search(line):
            kernels.append(Kernel(match["name"], match["architecture"]))
        elif match := PROPERTIES.search(line):
            described = match["name"]
        # Device functions that were not inlined have properties of their own, which are not those of the kernel.
        elif (match := FRAME.search(line)) and kernels and described == kernels[-1].name:
            kernels[-1].stack = int(match["stack"])
            kernels[-1].spill = int(match["stores"]) + int(match["loads"])
        elif (match := REGISTERS.search(line)) and kernels:
            kernels[-1].registers = int(match["registers"])
            if shared := SHARED.search(line):
                kernels[-1].shared = int(shared[1])
    return kernels


def readable(names: list[str]) -> list[str]:
    """Demangled without the argument list, where c++filt is available."""
    if shutil.which("c++filt") is None:
        return names
    answer = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True)
    return [line.replace("(anonymous namespace)::", "").removeprefix("void ") for line in answer.stdout.splitlines()]


def main(log_file: str) -> int:
    kernels = parse(Path(log_file).read_text())
    if not kernels:
        print(f"error: {log_file} holds no kernel; was the package built with NVCC_APPEND_FLAGS='-Xptxas -v'?")
        return 1
    print(f"{'registers':>9} {'spill':>6} {'stack':>6} {'shared':>7}  {'for':6} kernel")
    for kernel, name in zip(kernels, readable([kernel.name for kernel in kernels]), strict=True):
        figures = f"{kernel.registers:>9} {kernel.spill:>6} {kernel.stack:>6} {kernel.shared:>7}"
        print(f"{figures}  {kernel.architecture:6} {name}{'' if kernel.clean else '   <-- FAILS'}")
    failed = sum(not kernel.clean for kernel in kernels)
    print(f"{len(kernels)} kernels, {failed} with spills or a stack frame")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
