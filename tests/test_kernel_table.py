"""The table of the CUDA kernels: parsing of the machine code, its loops, and the bounds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kernel_table.bounds import Name, bound_of
from kernel_table.flow import FlowGraph, wide_accesses
from kernel_table.sass import Kernel, parse_instruction, parse_kernels
from kernel_table.table import THREADS, Row, describe, main_loop, resident_blocks

SAMPLE = "reparameterize_kernel<VectorAccess<8, false>, __nv_bfloat16, (Draw)0>"

# A loop of ten instructions on its shortest way: two branches over a store and over a slow path, and an inner loop.
CODE = """\
MOV R1, c[0x0][0x28]
@P0 BRA {exit}
header: LDG.E.128 R4, desc[UR4][R2.64]
LDG.E.128.CONSTANT R8, desc[UR4][R6.64]
@P1 BRA {fast}
CALL.REL.NOINC {exit}
FADD R9, R9, R9
FADD R9, R9, R9
fast: FADD R4, R4, R8
inner: FFMA R4, R4, R4, R4
@P2 BRA {inner}
@!P3 BRA {end}
STG.E.128 desc[UR4][R2.64], R4
end: ISETP.GE.AND P0, PT, R0, R1, PT
BRA P4, {header}
exit: EXIT
spin: BRA {spin}
"""


def sass(code: str = CODE, symbol: str = "kernel", architecture: str = "sm_90") -> str:
    """As cuobjdump prints it."""
    lines = [re.fullmatch(r"(?:(\w+): )?(.*)", line) for line in code.splitlines()]
    labels = {match[1]: hex(16 * index) for index, match in enumerate(lines) if match and match[1]}
    body = [
        f"        /*{16 * index:04x}*/  {match[2].format(**labels)} ;  /* 0x00000a00ff017b82 */\n"
        f"                                                      /* 0x000fe20003f46270 */"
        for index, match in enumerate(lines)
        if match
    ]
    header = [f"\tcode for {architecture}", f"\t\tFunction : {symbol}", '\t.headerflags\t@"EF_CUDA_SM90"']
    return "\n".join([*header, *body])


def usage(registers: int = 40, stack: int = 0, symbol: str = "kernel") -> str:
    return (
        f"Resource usage:\n Common:\n  GLOBAL:0\n Function {symbol}:\n"
        f"  REG:{registers} STACK:{stack} SHARED:65 LOCAL:0 CONSTANT[0]:848 TEXTURE:0 SURFACE:0 SAMPLER:0\n"
    )


def kernel(code: str = CODE, registers: int = 40, stack: int = 0) -> Kernel:
    (only,) = parse_kernels(sass(code), usage(registers, stack))
    return only


@pytest.mark.parametrize(
    ("text", "opcode", "width", "guarded"),
    [
        ("LDG.E.128 R4, desc[UR4][R2.64]", "LDG.E.128", 128, False),
        ("@!P0 LDG.E.64.CONSTANT R4, desc[UR4][R2.64]", "LDG.E.64.CONSTANT", 64, True),
        ("@UP1 STG.E.U16 desc[UR4][R2.64], R4", "STG.E.U16", 16, True),
        ("LDG.E.S8 R4, desc[UR4][R2.64]", "LDG.E.S8", 8, False),
        ("STG.E desc[UR4][R2.64], R4", "STG.E", 32, False),
    ],
)
def test_instruction(text: str, opcode: str, width: int, guarded: bool) -> None:
    instruction = parse_instruction(f"        /*01f0*/                   {text} ;   /* 0x0 */")
    assert instruction is not None
    assert (instruction.address, instruction.opcode) == (0x1F0, opcode)
    assert (instruction.width, instruction.guarded) == (width, guarded)
    assert instruction.name == opcode[:3]


def test_kernels_and_their_resources() -> None:
    code = sass(symbol="one") + "\n" + sass("STL [R1], R2\nLDL R2, [R1]\nEXIT\n", symbol="two")
    one, two = parse_kernels(code, usage(72, 0, "one") + usage(255, 16, "two") + usage(1, 1, "not_there"))
    assert (one.symbol, one.registers, one.stack, one.shared) == ("one", 72, 0, 65)
    assert len(one.instructions) == len(CODE.splitlines())
    assert (two.registers, two.stack, two.local_accesses) == (255, 16, 2)


def test_architectures_are_told_apart() -> None:
    code = sass(architecture="sm_80") + "\n" + sass("STL [R1], R2\nEXIT\n", architecture="sm_120")
    resources = "".join(f"arch = {name}\n{usage(registers)}" for name, registers in (("sm_120", 40), ("sm_80", 72)))
    of_80, of_120 = parse_kernels(code, resources)
    assert (of_80.architecture, of_80.registers, of_80.local_accesses) == ("sm_80", 72, 0)
    assert (of_120.architecture, of_120.registers, of_120.local_accesses) == ("sm_120", 40, 1)
    # The main loop is that of the table's architecture; what is kept in memory counts everywhere.
    assert describe(of_80, SAMPLE).per_element is None
    assert describe(of_80, SAMPLE).complaints == []
    assert describe(of_120, SAMPLE).complaints == ["spills"]


def test_shortest_rounds() -> None:
    graph = FlowGraph(kernel().instructions)
    inner, outer = graph.loops  # and not the branch behind the end
    assert len(graph.instructions_of(inner)) == 2
    rounds = graph.shortest_rounds(outer)
    assert {accesses: len(way) for accesses, way in rounds.items()} == {(2, 0): 9, (2, 1): 10}
    assert wide_accesses(rounds[2, 1]) == (2, 1)
    assert all(instruction.name != "CALL" for instruction in rounds[2, 1])


def test_elements_of_an_unrolled_loop() -> None:
    name = Name.parse(SAMPLE)
    bound = bound_of(name) if name else None
    assert name is not None
    assert bound is not None
    once = "header: LDG.E.128 R0, [R2]\nLDG.E.128 R0, [R2]\nSTG.E.128 [R2], R0\n@P0 BRA {header}\nEXIT\n"
    twice = once.replace("@P0", once.split("@P0")[0].removeprefix("header: ") + "@P0")
    for code, elements in ((once, 8), (twice, 16)):
        found = main_loop(kernel(code), name, bound)
        assert found is not None
        assert found[1] == elements


def complaints(code: str = CODE, readable: str = SAMPLE, registers: int = 40, stack: int = 0) -> str:
    return "; ".join(describe(kernel(code, registers, stack), readable).complaints)


def test_bounds() -> None:
    assert complaints() == ""
    assert "spills" in complaints(CODE.replace("FADD R4", "STL [R1], R4"))
    assert "stack" in complaints(stack=16)
    assert "fewer than 2 blocks" in complaints(registers=168)
    assert "instructions per element" in complaints(CODE.replace("fast: ", "fast: NOP\n" + 240 * "NOP\n"))
    assert "narrower" in complaints(CODE.replace("FADD R4", "LDG.E.64 R4"))
    assert "no main loop" in complaints(CODE.replace("STG.E.128", "STG.E.64"))
    assert "no bound" in complaints(readable="new_kernel<VectorAccess<8, false>, float>")
    assert "no bound" in complaints(readable="kernel_without_access")
    assert complaints(readable="new_kernel<GenericAccess<float, 1>, float>") == ""
    assert "no registers" in "; ".join(describe(Kernel("kernel"), SAMPLE).complaints)


def test_row() -> None:
    text = describe(kernel(), SAMPLE).text()
    assert text.split()[:5] == ["40", "0", "0", "65", "6"]
    assert "75.0%" in text
    assert "2x128 > 1x128" in text
    assert "1.2 <= 30" in text
    assert "<--" in Row("name", kernel(), complaints=["spills"]).text()


def test_resident_blocks() -> None:
    expected = {32: 8, 40: 6, 64: 4, 72: 3, 80: 3, 88: 2, 128: 2, 129: 1, 255: 1}
    assert {registers: resident_blocks(registers, 0) for registers in expected} == expected
    assert resident_blocks(32, 100 << 10) == 2


def test_block_size_is_that_of_the_kernels() -> None:
    source = (Path(__file__).parents[1] / "csrc/cuda/launch.h").read_text()
    assert f"constexpr int kBlock = {THREADS};" in source
