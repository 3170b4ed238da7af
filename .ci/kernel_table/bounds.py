"""What every kernel is held to. One table: a change that a kernel cannot meet shows up as a line of this file."""

from __future__ import annotations

import re
from dataclasses import dataclass

BYTES = {"float": 4, "__half": 2, "__nv_bfloat16": 2, "unsigned char": 1}
KERNEL = re.compile(r"(?P<base>\w+)<(?P<access>\w+)<(?P<parameters>[^>]*)>, (?P<rest>.*)>$")


@dataclass(frozen=True)
class Name:
    """A kernel's readable name, taken apart: ``elbo_loss_kernel<VectorAccess<8, false>, float, __half>``."""

    base: str
    vectors: bool
    group: int  # elements that a thread takes at once
    rows: bool
    rest: str

    @classmethod
    def parse(cls, readable: str) -> Name | None:
        match = KERNEL.fullmatch(readable)
        if match is None:
            return None
        group = re.search(r"\d+", match["parameters"])
        return cls(
            base=match["base"],
            vectors=match["access"] in ("VectorAccess", "TransformingVectors"),
            group=int(group[0]) if group else 0,
            rows=match["parameters"].endswith("true"),
            rest=match["rest"],
        )

    @property
    def packs(self) -> list[int]:
        """Accesses of 128 bits that move one group, for the operands' types in their order.

        A kernel whose types are known when it runs is measured with half types, whose way is the shortest.
        """
        sizes = [BYTES[word] for word in self.rest.split(", ") if word in BYTES] or [BYTES["__half"]]
        return [self.group * size // 16 for size in sizes]


@dataclass(frozen=True)
class Bound:
    """Limits of one kind of kernel, by its name and the types and choices behind the access (a regular expression).

    The main loop is the smallest loop with a way around that loads and stores as many operands as given, 128 bits at a
    time; its instructions are counted on the shortest such way.
    """

    base: str
    rest: str
    blocks: int  # of 256 threads that fit a multiprocessor at once, at least
    loads: int
    stores: int
    per_element: float  # instructions where the operands are contiguous
    per_element_of_rows: float  # and where they are rows that lie apart
    marker: str = ""  # an instruction that tells the main loop from others
    # How often the compiler may have unrolled the loop. Where types are known when the kernel runs, twice the accesses
    # are the way of a type that is twice as wide.
    unrolled: tuple[int, ...] = (8, 4, 2, 1)

    def covers(self, name: Name) -> bool:
        return name.base == self.base and re.fullmatch(self.rest, name.rest) is not None

    def accesses(self, name: Name) -> tuple[int, int]:
        """Wide loads and stores of one group. Of two types, the first is read and written, the second read."""
        if len(name.packs) == 2:
            return sum(name.packs), name.packs[0]
        return self.loads * name.packs[0], self.stores * name.packs[0]


def draw(number: int) -> str:
    return rf", \(Draw\){number}"


FLOAT, HALF, ANY = "float", "(__half|__nv_bfloat16)", "AnyStorage"
ONE, MANY, WITH_KL = draw(0), draw(1), draw(2)
SAMPLE, SAMPLE_BACKWARD = "reparameterize_kernel", "reparameterize_backward_kernel"
KL, LOSS, NOISE = "kl_divergence_kernel", "elbo_loss_kernel", "standard_normal_kernel"
TERM, SCALE = "elbo_loss_term_kernel", "scale_gradients_kernel"

# Kernels for rows also clamp logvar, where it is one half of packed moments. The KL kernels load the elementwise
# gradient, float32 and so two operands to a half type, under a guard.
VECTOR_BOUNDS = [
    #                        blocks, loads, stores, contiguous, rows
    Bound(SAMPLE, HALF + ONE, 2, 2, 1, 30, 32),
    Bound(SAMPLE, HALF + MANY, 2, 2, 1, 33, 36),
    Bound(SAMPLE, HALF + WITH_KL, 2, 2, 1, 40, 43),
    Bound(SAMPLE, FLOAT + ONE, 3, 2, 1, 32, 40),
    Bound(SAMPLE, FLOAT + MANY, 3, 2, 1, 37, 46),
    Bound(SAMPLE, FLOAT + WITH_KL, 3, 2, 1, 41, 49),
    Bound(SAMPLE_BACKWARD, HALF + ONE, 2, 2, 2, 36, 39),
    Bound(SAMPLE_BACKWARD, HALF + MANY, 2, 2, 2, 40, 44),
    Bound(SAMPLE_BACKWARD, HALF + WITH_KL, 2, 3, 2, 46, 50),
    Bound(SAMPLE_BACKWARD, FLOAT + ONE, 3, 2, 2, 38, 45),
    Bound(SAMPLE_BACKWARD, FLOAT + MANY, 3, 2, 2, 46, 53),
    Bound(SAMPLE_BACKWARD, FLOAT + WITH_KL, 3, 3, 2, 49, 56),
    Bound(KL, FLOAT + ", false", 3, 3, 2, 26, 34),
    Bound(KL, HALF + ", false", 3, 4, 2, 21, 24),
    Bound(KL, FLOAT + ", true", 3, 5, 4, 72, 85),
    Bound(KL, HALF + ", true", 2, 6, 4, 72, 78),
    # A scale in any form: the shortest way. Loads of float32's second half that a predicate skips are counted, so the
    # way with every operand is that with the most of them.
    Bound(SAMPLE, ANY + MANY, 2, 2, 1, 53, 53, unrolled=(1,)),
    Bound(SAMPLE, ANY + WITH_KL, 2, 2, 1, 85, 85, unrolled=(1,)),
    Bound(SAMPLE_BACKWARD, ANY + MANY, 2, 2, 2, 64, 64, unrolled=(1,)),
    Bound(SAMPLE_BACKWARD, ANY + WITH_KL, 2, 8, 2, 88, 88, unrolled=(1,)),
    Bound(KL, ANY + ", false", 2, 4, 2, 69, 69, unrolled=(1,)),
    Bound(KL, ANY + ", true", 2, 8, 4, 92, 92, unrolled=(1,)),
    Bound(LOSS, r"[^,]*, unsigned char", 2, 2, 1, 11, 12, marker="DFMA"),
    Bound(LOSS, r"[^,]*, [^,]*", 3, 2, 1, 9, 12, marker="DFMA"),
    Bound(TERM, "BCE<float>", 2, 2, 1, 80, 83, marker="I2FP", unrolled=(1,)),
    Bound(TERM, "(BCEWithLogits|GaussianNLL|LaplaceNLL)<float>", 2, 2, 1, 39, 41, marker="I2FP", unrolled=(1,)),
    Bound(TERM, r"[^,]*", 3, 2, 1, 24, 27, marker="I2FP", unrolled=(1,)),
    Bound(SCALE, ANY, 3, 1, 1, 7, 7, unrolled=(1,)),
    Bound(NOISE, HALF, 3, 0, 1, 26, 26),
    Bound(NOISE, FLOAT, 3, 0, 1, 26, 26),
]
# Any layout, one element at a time: no bound on instructions.
GENERIC_BLOCKS = 2


def bound_of(name: Name) -> Bound | None:
    return next((bound for bound in VECTOR_BOUNDS if bound.covers(name)), None)
