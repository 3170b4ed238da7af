"""What cuobjdump prints of an extension: the machine instructions and the resources of every kernel."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

CODE_FOR = re.compile(r"^\s*(?:code for|arch =) (?P<architecture>sm_\w+)\s*$")
FUNCTION = re.compile(r"^\s*Function : (?P<name>\S+)")
INSTRUCTION = re.compile(r"^\s*/\*(?P<address>[0-9a-f]+)\*/\s+(?P<text>[^;]+?)\s*;")
RESOURCES_OF = re.compile(r"^\s*Function (?P<name>\S+):\s*$")
RESOURCES = re.compile(r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+) LOCAL:(?P<local>\d+)")
GUARD = re.compile(r"^@!?(U?P\d|U?PT)\s+")


@dataclass(frozen=True)
class Instruction:
    """One machine instruction: its address, and its text without the guard."""

    address: int
    text: str
    guarded: bool

    @property
    def opcode(self) -> str:
        """With its modifiers: ``LDG.E.128``."""
        return self.text.split(maxsplit=1)[0]

    @property
    def name(self) -> str:
        """Without them: ``LDG``."""
        return self.opcode.split(".")[0]

    @property
    def target(self) -> int:
        """Where a branch goes."""
        return int(self.text.split()[-1], 16)

    @property
    def width(self) -> int:
        """Bits that one thread moves in a load or store."""
        for modifier in self.opcode.split(".")[1:]:
            if modifier in ("128", "64"):
                return int(modifier)
            if match := re.fullmatch(r"[US](8|16)", modifier):
                return int(match[1])
        return 32


@dataclass
class Kernel:
    """One kernel: its name as the linker sees it, its resources in bytes and registers a thread, its instructions."""

    symbol: str
    architecture: str = ""
    registers: int = -1
    stack: int = -1
    local: int = -1
    shared: int = -1
    instructions: list[Instruction] = field(default_factory=list)

    @property
    def local_accesses(self) -> int:
        """Loads and stores of memory that stands in for registers: spills, and arrays indexed at run time."""
        return sum(instruction.name in ("LDL", "STL") for instruction in self.instructions)


def parse_instruction(line: str) -> Instruction | None:
    match = INSTRUCTION.match(line)
    if match is None:
        return None
    text = GUARD.sub("", match["text"])
    return Instruction(int(match["address"], 16), text, guarded=text != match["text"])


def parse_kernels(sass: str, resources: str) -> list[Kernel]:
    """From the outputs of ``cuobjdump --dump-sass`` and ``--dump-resource-usage``."""
    kernels: dict[tuple[str, str], Kernel] = {}
    current: list[Instruction] = []
    architecture = ""
    for line in sass.splitlines():
        if match := CODE_FOR.match(line):
            architecture = match["architecture"]
        elif match := FUNCTION.match(line):
            kernel = Kernel(match["name"], architecture)
            current = kernels.setdefault((architecture, kernel.symbol), kernel).instructions
        elif instruction := parse_instruction(line):
            current.append(instruction)
    # Of a cubin the resources do not say the architecture, which is then the only one.
    name = ""
    for line in resources.splitlines():
        if match := CODE_FOR.match(line):
            architecture = match["architecture"]
        elif match := RESOURCES_OF.match(line):
            name = match["name"]
        elif (match := RESOURCES.search(line)) and (architecture, name) in kernels:
            kernel = kernels[architecture, name]
            kernel.registers, kernel.stack = int(match["registers"]), int(match["stack"])
            kernel.shared, kernel.local = int(match["shared"]), int(match["local"])
    return list(kernels.values())


def read_kernels(extension: Path) -> list[Kernel]:
    """Every kernel of a library, object file or cubin, once for each of its architectures."""

    def dumped(what: str) -> str:
        return subprocess.run(["cuobjdump", what, str(extension)], capture_output=True, text=True, check=True).stdout

    return parse_kernels(dumped("--dump-sass"), dumped("--dump-resource-usage"))


def readable(symbols: list[str]) -> list[str]:
    """Demangled, without namespaces and the argument list: ``kl_divergence_kernel<VectorAccess<8>, __half, true>``."""
    answer = subprocess.run(["c++filt", "-p"], input="\n".join(symbols), capture_output=True, text=True, check=True)
    names = [line.replace("(anonymous namespace)::", "").removeprefix("void ") for line in answer.stdout.splitlines()]
    return [name.replace("vae_fused::", "").replace("> >", ">>") for name in names]
