"""The CPU kernels of every instruction set that this processor has: chosen by name, and in agreement."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.capabilities import BEST, CAPABILITIES, ELSEWHERE, available_capabilities, run

pytestmark = pytest.mark.skipif(BEST is None, reason="built without the extension")

# Runs in a process of its own, because the choice is made once.
PROGRAM = """
import sys
import torch
import vae_fused as vf
from helpers.inputs import cancelling_terms

torch.manual_seed(0)
key = torch.tensor([123456789, 2**64 - 100], dtype=torch.uint64)
results = {"capability": vf.build_info()["cpu_capability"]}
shape = (37, 1501)
wide = {"recon": torch.rand(shape), "target": torch.rand(shape), "mu": torch.randn(shape), "logvar": torch.randn(shape)}
magnitudes, signs = cancelling_terms(shape)
for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
    recon, target, mu, logvar = (t.detach().to(dtype).requires_grad_() for t in wide.values())
    z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
    loss, reconstruction, kl_term = vf.elbo_loss(recon, target, mu, logvar, return_terms=True)
    loss.backward()
    terms, zeros = magnitudes.clamp(max=torch.finfo(dtype).max).to(dtype), torch.zeros(shape, dtype=dtype)
    results[str(dtype)] = {
        "normals": vf.standard_normal(key, (100_003,), dtype=dtype),
        "z": z.detach(),
        "kl": kl.detach(),
        "squared error": reconstruction,
        "squared error per item": vf.elbo_loss(recon, target, mu, logvar, beta=0.0, reduction="sample").detach(),
        "cancelling sum": vf.elbo_loss(
            terms, zeros, zeros, zeros, recon_loss="l1", weight=signs.to(dtype), reduction="sum"
        ),
        "kl term": kl_term,
        "grad recon": recon.grad,
        "grad target": target.grad,
        "grad mu": mu.grad,
        "grad logvar": logvar.grad,
    }

recon, target, mu, logvar = (t.double() for t in wide.values())
wide_results = results["everything in float64"] = {}
sigmas = {"gaussian_nll": {"log_sigma": logvar}, "laplace_nll": {"log_sigma": logvar}}
for term in ("mse", "l1", "smooth_l1", "bce_with_logits", "bce", "gaussian_nll", "laplace_nll"):
    leaves = [t.clone().requires_grad_() for t in (recon, target)]
    loss = vf.elbo_loss(*leaves, mu, logvar, recon_loss=term, weight=target, reduction="sample", **sigmas.get(term, {}))
    wide_results[term] = torch.stack([loss.detach()])
    for name, gradient in zip(("recon", "target"), torch.autograd.grad(loss.sum(), leaves)):
        wide_results[f"{term}, {name}"] = gradient
for form in ("logvar", "log_std", "std", "var", "exp_std", "exp_var", "softplus_std", "softplus_var"):
    raw = (logvar.abs() + 0.1 if form in ("std", "var") else logvar).requires_grad_()
    z, kl = vf.reparameterize_with_kl(mu, raw, key=key, parameterization=form)
    wide_results[f"{form}, z"], wide_results[f"{form}, kl"] = z.detach(), kl.detach()
    (wide_results[f"{form}, raw"],) = torch.autograd.grad(z.sum() + kl.sum(), raw)
torch.save(results, sys.argv[1])
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("capabilities")
    loaded = {}
    for capability in available_capabilities():
        path = folder / f"{capability}.pt"
        finished = run(capability, str(path), program=PROGRAM)
        assert finished.returncode == 0, finished.stderr
        loaded[capability] = torch.load(path)
    return loaded


def test_the_choice_is_the_one_asked_for(results):
    for capability, result in results.items():
        assert result["capability"] == capability


EXACT = ("squared error", "squared error per item", "cancelling sum", "grad recon", "grad target", "grad mu")
DTYPES = ["torch.float16", "torch.bfloat16", "torch.float32", "torch.float64"]


def others(results, dtype, name):
    best = results[BEST][dtype][name]
    return best, [result[dtype][name] for capability, result in results.items() if capability != BEST]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
def test_sums_without_elementary_functions_are_equal_to_the_bit(results, dtype, name):
    best, rest = others(results, dtype, name)
    for other in rest:
        assert torch.equal(best, other)


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.float64"])
def test_normals_agree(results, dtype):
    # The same words and the same polynomials; only fused and separate multiply-adds may differ.
    best, rest = others(results, dtype, "normals")
    for other in rest:
        assert ((best - other).abs() <= 8 * torch.finfo(best.dtype).eps * (best.abs() + 1)).all()
        assert (best == other).float().mean() > 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["z", "kl", "kl term", "grad logvar"])
def test_the_rest_agrees_to_rounding(results, dtype, name):
    best, rest = others(results, dtype, name)
    for other in rest:
        # One step of the result's dtype, where the values lie on both sides of a rounding boundary.
        step = torch.finfo(best.dtype).eps
        torch.testing.assert_close(best, other, rtol=4 * step, atol=16 * torch.finfo(torch.float32).eps)


def test_avx2_and_avx512_are_equal_to_the_bit_in_float64(results):
    if not {"avx2", "avx512"} <= results.keys():
        pytest.skip("this processor has no AVX-512, or the environment asks for one instruction set")
    for kind in ("torch.float64", "everything in float64"):
        for name, best in results["avx512"][kind].items():
            assert torch.equal(best, results["avx2"][kind][name]), name


def test_every_term_and_form_agrees_in_float64(results):
    for name, best in results[BEST]["everything in float64"].items():
        _, rest = others(results, "everything in float64", name)
        for other in rest:
            # A few roundings of numbers of the size of 10, and of the element itself.
            torch.testing.assert_close(
                best, other, rtol=2e-15, atol=1e-14, msg=lambda text, name=name: f"{name}: {text}"
            )


WRONG_NAMES = ("sse9", "AVX2", " avx2", "avx512,avx2")
# Until a name is right nothing is chosen, so one process can go on to the next.
PROGRAM_OF_NAMES = """
import os, sys
import torch, vae_fused as vf
for name in sys.argv[1:]:
    os.environ["VAE_FUSED_CPU_CAPABILITY"] = name
    try:
        vf.kl_divergence(torch.zeros(2, 2), torch.zeros(2, 2))
    except ValueError as error:
        print(error)
"""


def test_a_wrong_name_raises():
    finished = run(WRONG_NAMES[0], *WRONG_NAMES, BEST, program=PROGRAM_OF_NAMES)
    assert finished.returncode == 0, finished.stderr
    messages = finished.stdout.splitlines()
    assert len(messages) == len(WRONG_NAMES)
    for message, wrong in zip(messages, WRONG_NAMES, strict=True):
        assert message.startswith("VAE_FUSED_CPU_CAPABILITY must be one of ")
        assert "baseline" in message
        assert message.endswith(f" on this processor, got '{wrong}'")


def test_an_empty_value_means_the_best():
    program = "import vae_fused as vf; print(vf.build_info()['cpu_capability'])"
    environment = {k: v for k, v in os.environ.items() if k != "VAE_FUSED_CPU_CAPABILITY"}
    finished = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=ELSEWHERE, env=env, capture_output=True, text=True, check=True
        ).stdout
        for env in (environment, {**environment, "VAE_FUSED_CPU_CAPABILITY": ""})
    ]
    assert finished[0] == finished[1]
    assert finished[0].strip() in CAPABILITIES
