"""The control flow of a kernel: its loops, and the ways around each of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

from kernel_table.sass import Instruction

ENDS = ("EXIT", "RET", "BRX", "JMX")

# Wide loads and wide stores on a way around a loop.
Accesses = tuple[int, int]


def conditional(branch: Instruction) -> bool:
    """Whether it may also fall through: by its guard, or by a predicate or register before its target."""
    return branch.guarded or "," in branch.text


def wide_accesses(instructions: list[Instruction]) -> Accesses:
    """How many of them load and store 128 bits of global memory."""
    wide = [instruction.name for instruction in instructions if instruction.width == 128]
    return wide.count("LDG"), wide.count("STG")


@dataclass(frozen=True)
class Loop:
    """A natural loop: the block that every round begins with, all of its blocks, and those that end a round."""

    header: int
    blocks: frozenset[int]
    latches: frozenset[int]


class FlowGraph:
    """Basic blocks and their successors, by the index of the block."""

    def __init__(self, instructions: list[Instruction]) -> None:
        position = {instruction.address: index for index, instruction in enumerate(instructions)}
        starts = {0, len(instructions)}
        for index, instruction in enumerate(instructions):
            if instruction.name == "BRA":
                starts.add(position[instruction.target])
            if instruction.name in ("BRA", *ENDS):
                starts.add(index + 1)
        edges = sorted(starts)
        self.blocks = [instructions[first:last] for first, last in itertools.pairwise(edges)]
        block_at = {block[0].address: index for index, block in enumerate(self.blocks)}
        self.successors = [
            self._successors(block[-1], following, block_at) for following, block in enumerate(self.blocks, start=1)
        ]

    def _successors(self, last: Instruction, following: int, block_at: dict[int, int]) -> list[int]:
        falls_through = [following] if following < len(self.blocks) else []
        if last.name == "BRA":
            return [block_at[last.target], *(falls_through if conditional(last) else [])]
        return [] if last.name in ENDS and not last.guarded else falls_through

    @cached_property
    def predecessors(self) -> list[list[int]]:
        predecessors: list[list[int]] = [[] for _ in self.blocks]
        for block, following in enumerate(self.successors):
            for successor in following:
                predecessors[successor].append(block)
        return predecessors

    @cached_property
    def dominators(self) -> list[set[int]]:
        """For every block, the blocks that every way to it goes through; all blocks where there is no way."""
        everything = set(range(len(self.blocks)))
        dominators = [{0}] + [everything.copy() for _ in self.blocks[1:]]
        changed = True
        while changed:
            changed = False
            for block in range(1, len(self.blocks)):
                ways = [dominators[predecessor] for predecessor in self.predecessors[block]]
                new = {block} | set.intersection(*ways) if ways else everything
                changed = changed or new != dominators[block]
                dominators[block] = new
        return dominators

    def reachable(self, block: int) -> bool:
        return block == 0 or len(self.dominators[block]) < len(self.blocks)

    def goes_back(self, block: int, successor: int) -> bool:
        return successor in self.dominators[block]

    @cached_property
    def loops(self) -> list[Loop]:
        """All natural loops, the smallest first."""
        latches: dict[int, set[int]] = {}
        for block, following in enumerate(self.successors):
            for successor in following:
                if self.reachable(block) and self.goes_back(block, successor):
                    latches.setdefault(successor, set()).add(block)
        loops = [Loop(header, self._body(header, ends), frozenset(ends)) for header, ends in latches.items()]
        return sorted(loops, key=lambda loop: len(self.instructions_of(loop)))

    def _body(self, header: int, latches: set[int]) -> frozenset[int]:
        body, waiting = {header}, list(latches)
        while waiting:
            block = waiting.pop()
            if block not in body:
                body.add(block)
                waiting += self.predecessors[block]
        return frozenset(body)

    def instructions_of(self, loop: Loop) -> list[Instruction]:
        return [instruction for block in sorted(loop.blocks) for instruction in self.blocks[block]]

    def shortest_rounds(self, loop: Loop) -> dict[Accesses, list[Instruction]]:
        """The shortest way from the header back to it for every number of wide accesses; inner loops are run once."""
        rounds: dict[int, dict[Accesses, list[Instruction]]] = {}

        def from_block(block: int) -> dict[Accesses, list[Instruction]]:
            if block not in rounds:
                own = self.blocks[block]
                ways = [own] if block in loop.latches else []
                for successor in self.successors[block]:
                    if successor in loop.blocks and not self.goes_back(block, successor):
                        ways += [[*own, *way] for way in from_block(successor).values()]
                shortest: dict[Accesses, list[Instruction]] = {}
                for way in sorted(ways, key=len):
                    shortest.setdefault(wide_accesses(way), way)
                rounds[block] = shortest
            return rounds[block]

        return from_block(loop.header)
