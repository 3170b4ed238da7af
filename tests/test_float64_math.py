"""The elementary functions of the float64 CPU kernels against 250 bits, on every instruction set of this processor.

Each function is read out of an operator that returns it as it is, or times a power of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from helpers.capabilities import available_capabilities, run
from helpers.philox import block
from torch import Tensor

import vae_fused as vf

F64 = torch.float64
# Units in the last place of the result; without a fused multiply-add a product and a sum round twice.
ULPS = {"avx512": 2.0, "avx2": 2.0, "baseline": 3.0}
COUNT = 3001
SEED, BLOCKS = 2024, 1500

PROGRAM = """
import sys
import torch
import vae_fused as vf

inputs = torch.load(sys.argv[1])
outputs = {}


def divergence(mu, logvar, prior_mu, prior_logvar):
    leaves = [t.clone().requires_grad_() for t in (mu, logvar, prior_mu, prior_logvar)]
    value = vf.kl_divergence(*leaves, reduction="none")
    return value.detach(), *torch.autograd.grad(value.sum(), leaves)


x = inputs["exponent"]
zero, one = torch.zeros_like(x), torch.ones_like(x)
value, _, half_expm1, *_ = divergence(zero, x, zero, zero)
outputs["e^x - 1 - x"], outputs["e^x - 1"] = 2 * value, 2 * half_expm1
outputs["e^x"] = divergence(one, -x, zero, -x)[1]

x = inputs["positive"]
value = vf.kl_divergence(torch.zeros_like(x), x, reduction="none", parameterization="var")
outputs["x - 1 - ln x"] = 2 * value

items = {"kl": torch.zeros(len(inputs["unit"]), dtype=torch.float64), "reduction": "sample"}
x, zero = inputs["unit"].unsqueeze(1), torch.zeros(len(inputs["unit"]), 1, dtype=torch.float64)
outputs["-ln(1 - x)"] = vf.elbo_loss(x, zero, recon_loss="bce", **items)
items["kl"] = items["kl"][:len(inputs["tiny"])]
x = inputs["tiny"].unsqueeze(1)
outputs["-ln x"] = vf.elbo_loss(x, torch.ones_like(x), recon_loss="bce", **items)
x = inputs["logits"].unsqueeze(1)
items["kl"] = torch.zeros(len(x), dtype=torch.float64)
outputs["ln(1 + e^-x)"] = vf.elbo_loss(x, torch.ones_like(x), recon_loss="bce_with_logits", **items)

key = torch.tensor([inputs["seed"], 0], dtype=torch.uint64)
outputs["normals"] = vf.standard_normal(key, (2 * inputs["blocks"],), dtype=torch.float64)
torch.save(outputs, sys.argv[2])
"""


def inputs() -> dict[str, Tensor | int]:
    torch.manual_seed(11)

    def spread(low: float, high: float, count: int = COUNT) -> Tensor:
        return low + (high - low) * torch.rand(count, dtype=F64)

    tiny = 10.0 ** spread(-12, 0)
    seams = math.log(2) * (torch.arange(-40, 40, dtype=F64) + 0.5)
    beside = torch.cat([seams, torch.nextafter(seams, seams + 1), torch.nextafter(seams, seams - 1)])
    exponents = [spread(-1.5, 1.5), spread(-708, 709.78), tiny, -tiny, beside, torch.tensor([709.0, 709.5, 709.78])]
    roots = torch.tensor([0.5**0.5, 2.0**0.5], dtype=F64)
    positive = [spread(0.2, 5.0), 10.0 ** spread(-307, 307), 1 + tiny / 2, 1 - tiny / 2, roots, roots + 1e-15]
    return {
        "exponent": torch.cat(exponents).to(F64),
        "positive": torch.cat(positive),
        "unit": torch.cat([spread(0, 1), tiny]),
        "tiny": 10.0 ** spread(-43, -20),
        "logits": torch.cat([spread(0, 40), tiny]),
        "seed": SEED,
        "blocks": BLOCKS,
    }


FUNCTIONS: dict[str, tuple[str, Callable[[mpmath.mpf], mpmath.mpf]]] = {
    "e^x": ("exponent", mpmath.exp),
    "e^x - 1": ("exponent", mpmath.expm1),
    "e^x - 1 - x": ("exponent", lambda x: mpmath.expm1(x) - x),
    "x - 1 - ln x": ("positive", lambda x: x - 1 - mpmath.log(x)),
    "-ln(1 - x)": ("unit", lambda x: -mpmath.log1p(-x)),
    "-ln x": ("tiny", lambda x: -mpmath.log(x)),
    "ln(1 + e^-x)": ("logits", lambda x: mpmath.log1p(mpmath.exp(-x))),
}


@pytest.fixture(scope="module")
def truths():
    given = inputs()
    with mpmath.workprec(250):
        return given, {
            name: [function(mpmath.mpf(x)) for x in given[source].tolist()]
            for name, (source, function) in FUNCTIONS.items()
        }


@pytest.fixture(scope="module", params=available_capabilities())
def outputs(request, truths, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.save(truths[0], folder / "inputs.pt")
    finished = run(request.param, str(folder / "inputs.pt"), str(folder / "outputs.pt"), program=PROGRAM)
    assert finished.returncode == 0, finished.stderr
    return request.param, torch.load(folder / "outputs.pt")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(outputs, truths, name):
    capability, found = outputs
    truth = truths[1][name]
    assert len(truth) == len(found[name])
    errors = []
    with mpmath.workprec(250):
        for ours, exact in zip(found[name].tolist(), truth, strict=True):
            rounded = float(exact)
            assert math.isfinite(ours)
            errors.append(float(abs(mpmath.mpf(ours) - exact) / math.ulp(rounded)))
    # Two functions, of which the first is the argument of the second.
    allowed = ULPS[capability] + (0.5 if name == "ln(1 + e^-x)" else 0.0)
    assert max(errors) <= allowed, (capability, max(errors))


def test_normals(outputs):
    """An ulp and a half each for the radius, and for the sine or the cosine, and one rounding of their product."""
    _, found = outputs
    ours = found["normals"].tolist()
    with mpmath.workprec(250):
        for counter in range(BLOCKS):
            words = block(SEED, counter)
            # Rounded to double as they stand, before the half step is added.
            u1, u2 = (float(words[i] * 2**32 + words[i + 1]) * 2.0**-64 + 2.0**-65 for i in (0, 2))
            radius = mpmath.sqrt(-2 * mpmath.log(mpmath.mpf(u1)))
            angle = mpmath.mpf(6.283185307179586 * u2)  # rounded, as PyTorch has it
            for lane, exact in enumerate((radius * mpmath.cos(angle), radius * mpmath.sin(angle))):
                error = abs(mpmath.mpf(ours[2 * counter + lane]) - exact)
                assert error <= 4.0 * math.ulp(float(exact)), (counter, lane)


@pytest.mark.parametrize("recon_loss", ["mse", "l1"])
def test_sums_keep_what_is_small_beside_them(recon_loss):
    """Added to 1e16, 0.49 is rounded away, in every lane of a vector and 124 times over."""
    large = 1e8 if recon_loss == "mse" else 1e16
    recon = torch.full((3, 1000), 0.7, dtype=F64)
    recon[:, :8] = large
    ours = vf.elbo_loss(recon, torch.zeros_like(recon), kl=torch.zeros(3), recon_loss=recon_loss, reduction="sample")
    values = recon.square() if recon_loss == "mse" else recon
    exact = math.fsum(values[0].tolist())
    assert ours.dtype == F64
    assert ((ours - exact).abs() <= math.ulp(exact)).all()


EDGES = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, 5e-324, 1e-310, -1e-310, 746.0, -746.0, 1e308, -1e308])


def test_exponentials_underflow_and_overflow_as_those_of_pytorch():
    falling = torch.linspace(-746, -700, 4001, dtype=F64)
    rising = torch.linspace(700, 711, 4001, dtype=F64)
    x = torch.cat([falling, rising, EDGES.to(F64)])
    mu, zero = torch.ones_like(x).requires_grad_(), torch.zeros_like(x)
    (ours,) = torch.autograd.grad(vf.kl_divergence(mu, zero, zero, -x, reduction="none").sum(), mu)
    # One rounding of a subnormal number, or two units in the last place.
    torch.testing.assert_close(ours, torch.exp(x), rtol=4.5e-16, atol=5e-324, equal_nan=True)


def test_logarithms_at_the_edges_are_those_of_pytorch():
    x = torch.cat([EDGES.to(F64), torch.tensor([1e-320, 2.3e-308, 1.7e308, 1.0, -1.0], dtype=F64)])
    ours = vf.kl_divergence(torch.zeros_like(x), x, reduction="none", parameterization="var")
    expected = torch.where(x == math.inf, x, 0.5 * (x - 1 - torch.log(x)))
    torch.testing.assert_close(ours, expected, rtol=4.5e-16, atol=0, equal_nan=True)
