"""One row for every kernel, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from kernel_table.bounds import GENERIC_BLOCKS, Bound, Name, bound_of
from kernel_table.flow import FlowGraph
from kernel_table.sass import Instruction, Kernel

# A multiprocessor of compute capability 9.0: registers, and how they are dealt out to a warp; warps; shared memory.
THREADS, WARP = 256, 32
REGISTERS, REGISTER_UNIT, WARPS = 65536, 256, 64
SHARED, SHARED_OF_SYSTEM = 228 << 10, 1 << 10
WARPS_OF_BLOCK = THREADS // WARP

ARCHITECTURE = "sm_90"  # of the table
HEADINGS = f"{'registers':>9} {'spills':>6} {'stack':>5} {'shared':>6} {'blocks':>6} {'occupancy':>9}"
HEADINGS += f" {'accesses a round':>17} {'per element':>13}  kernel"


def resident_blocks(registers: int, shared: int) -> int:
    """Blocks of 256 threads that one multiprocessor holds at once."""
    of_warp = -(-registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    by_registers = REGISTERS // of_warp // WARPS_OF_BLOCK
    return min(WARPS // WARPS_OF_BLOCK, by_registers, SHARED // (shared + SHARED_OF_SYSTEM))


@dataclass
class Row:
    """What is known of one kernel; the last four only of those that move vectors."""

    readable: str
    kernel: Kernel
    complaints: list[str] = field(default_factory=list)
    loads: list[int] = field(default_factory=list)  # bits of each in one round of the main loop
    stores: list[int] = field(default_factory=list)
    per_element: float | None = None
    limit: float | None = None

    @property
    def blocks(self) -> int:
        return resident_blocks(self.kernel.registers, self.kernel.shared)

    def text(self) -> str:
        kernel = self.kernel
        figures = f"{kernel.registers:>9} {kernel.local_accesses:>6} {kernel.stack:>5} {kernel.shared:>6}"
        figures += f" {self.blocks:>6} {100 * self.blocks * WARPS_OF_BLOCK / WARPS:>8.1f}%"
        accesses = f"{widths(self.loads)} > {widths(self.stores)}" if self.stores else "-"
        count = "-" if self.per_element is None else f"{self.per_element:.1f} <= {self.limit:g}"
        failed = "".join(f"   <-- {complaint}" for complaint in self.complaints)
        return f"{figures} {accesses:>17} {count:>13}  {self.readable}{failed}"


def widths(bits: list[int]) -> str:
    """``2x128``, widest first."""
    return "+".join(f"{bits.count(width)}x{width}" for width in sorted(set(bits), reverse=True)) or "none"


def main_loop(kernel: Kernel, name: Name, bound: Bound) -> tuple[list[Instruction], int] | None:
    """The instructions of one round, and how many elements it takes on; the compiler may have unrolled the loop."""
    graph = FlowGraph(kernel.instructions)
    loads, stores = bound.accesses(name)
    for loop in graph.loops:
        instructions = graph.instructions_of(loop)
        if bound.marker and all(instruction.name != bound.marker for instruction in instructions):
            continue
        rounds = graph.shortest_rounds(loop)
        for unrolled in bound.unrolled:
            if found := rounds.get((unrolled * loads, unrolled * stores)):
                return found, unrolled * name.group
    return None


def measure(row: Row, name: Name, bound: Bound) -> None:
    """Fill in the row's main loop and complain where it is beyond its bound."""
    found = main_loop(row.kernel, name, bound)
    if found is None:
        row.complaints.append("no main loop with 128-bit accesses of every operand")
        return
    instructions, elements = found
    row.loads = [instruction.width for instruction in instructions if instruction.name == "LDG"]
    row.stores = [instruction.width for instruction in instructions if instruction.name == "STG"]
    row.per_element = len(instructions) / elements
    row.limit = bound.per_element_of_rows if name.rows else bound.per_element
    if row.per_element > row.limit:
        row.complaints.append(f"more than {row.limit:g} instructions per element")
    if set(row.loads + row.stores) != {128}:
        row.complaints.append("accesses narrower than 128 bits in the main loop")


def describe(kernel: Kernel, readable: str) -> Row:
    """The row of a kernel. The bounds of its main loop and its blocks are those of the table's architecture."""
    row = Row(readable, kernel)
    name = Name.parse(readable)
    if kernel.registers < 0 or not kernel.instructions:
        row.complaints.append("no registers or no instructions found")
        return row
    if kernel.local_accesses or kernel.local:
        row.complaints.append("spills")
    if kernel.stack:
        row.complaints.append("stack")
    bound = bound_of(name) if name is not None and name.vectors else None
    if name is None or (name.vectors and bound is None):
        row.complaints.append("no bound: add one to bounds.py")
    blocks = bound.blocks if bound is not None else GENERIC_BLOCKS
    if row.blocks < blocks and kernel.architecture == ARCHITECTURE:
        row.complaints.append(f"fewer than {blocks} blocks at once")
    if name is not None and bound is not None and kernel.architecture == ARCHITECTURE:
        measure(row, name, bound)
    return row
