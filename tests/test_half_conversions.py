"""Floats become half types as PyTorch makes them on every instruction set: to nearest even, subnormals and NaN too."""

from __future__ import annotations

import pytest
from helpers.capabilities import BEST, available_capabilities, run

pytestmark = pytest.mark.skipif(BEST is None, reason="built without the extension")

PROGRAM = """
import torch
import vae_fused as vf


def check_every_value(dtype):
    # The gradient of the squared error is 2 (recon - target), which two halves of different size fill with bits. Every
    # element of a half type is a reconstruction, and the number is no multiple of any vector's: the last is a part.
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    recon = torch.cat([patterns, patterns[:7]]).unsqueeze(0)
    for shift in (1, 2, 5, 9, 11):
        target = torch.roll(recon, shift, 1) * 2.0**-shift
        leaf = recon.clone().requires_grad_()
        vf.elbo_loss(leaf, target, kl=torch.zeros(1, dtype=dtype)).backward()
        expected = (2 * (recon.float() - target.float())).to(dtype)
        numbers = ~expected.isnan()
        assert torch.equal(leaf.grad.isnan(), expected.isnan())
        assert torch.equal(leaf.grad[numbers].view(torch.int16), expected[numbers].view(torch.int16))
        magnitude = expected[numbers].float().abs()
        assert ((magnitude > 0) & (magnitude < torch.finfo(dtype).smallest_normal)).any()


def of_all_payloads(shape):
    # Bits of NaN that a half type does not have: with all of them set, rounding alone makes it zero, and with only the
    # last one set an infinity.
    values = torch.ones(shape)
    bits = values.view(torch.int32)
    bits[::3], bits[1::9], bits[2::9] = 0x7fffffff, -1, 0x7f800001
    return values


def check_nan(dtype):
    leaf = torch.zeros(1, 71, dtype=dtype, requires_grad=True)
    target = of_all_payloads(71).unsqueeze(0)
    vf.elbo_loss(leaf, target, kl=torch.zeros(1)).backward()
    assert torch.equal(leaf.grad.isnan(), target.isnan())
    # Where all that has elements is of the half type, they come with the weights of items.
    for numel in (1, 31, 71, 640):
        leaf = torch.ones(18, numel, dtype=dtype, requires_grad=True)
        weights = of_all_payloads(18)
        loss = vf.elbo_loss(leaf, torch.zeros_like(leaf), kl=torch.zeros(18), reduction="sample")
        loss.backward(weights)
        assert torch.equal(leaf.grad.isnan(), weights.isnan().unsqueeze(1).expand(18, numel))
    # Gradients of several samples are added up before they are rounded.
    grad_z, logvar = of_all_payloads(3 * 640).view(3, 1, 640), torch.zeros(1, 640, dtype=dtype)
    key = torch.tensor([1, 2], dtype=torch.uint64)
    for gradient in torch.ops.vae_fused.reparameterize_backward(grad_z, None, None, logvar, key, 3, [True, True]):
        assert torch.equal(gradient.isnan(), grad_z.isnan().any(0))


def gradients_of_every_operator(dtype, patterns):
    # All element operands hold every value of the half type, in different orders.
    def operand(shift):
        return torch.roll(patterns, shift).to(dtype).unsqueeze(0).requires_grad_()

    recon, target, mu, logvar, log_sigma, grad_z = (operand(shift) for shift in (0, 1, 2, 5, 9, 11))
    prior_mu, prior_logvar = operand(3), operand(7)
    no_kl, key = torch.zeros(1), torch.tensor([1, 2], dtype=torch.uint64)
    results = {}
    for term in ("mse", "l1", "smooth_l1", "bce_with_logits", "bce", "gaussian_nll", "laplace_nll"):
        sigma = {"log_sigma": log_sigma} if term.endswith("nll") else {}
        leaves = [recon, target, *sigma.values()]
        loss = vf.elbo_loss(recon, target, kl=no_kl, recon_loss=term, **sigma)
        results[term] = torch.autograd.grad(loss, leaves)
        loss = vf.elbo_loss(recon, target, kl=no_kl, recon_loss=term, weight=grad_z.detach(), **sigma)
        results[f"weighted {term}"] = torch.autograd.grad(loss, leaves)
    for prior in ([], [prior_mu, prior_logvar]):
        for reduction in ("none", "batchmean"):
            kl = vf.kl_divergence(mu, logvar, *prior, reduction=reduction)
            results[f"{reduction} kl, {len(prior)} operands of a prior"] = [
                kl.detach().to(dtype),
                *torch.autograd.grad(kl.sum(), [mu, logvar, *prior]),
            ]
    z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
    results["sampling"] = [z.detach(), *torch.autograd.grad([z, kl], [mu, logvar], [grad_z, torch.ones_like(kl)])]
    z = vf.reparameterize(mu, logvar, key=key)
    results["sampling alone"] = [z.detach(), *torch.autograd.grad(z, [mu, logvar], grad_z)]
    z = vf.reparameterize(mu, logvar, key=key, num_samples=2)
    results["samples"] = [z.detach(), *torch.autograd.grad(z, [mu, logvar], torch.stack([grad_z, mu]).detach())]
    return results


def check_that_results_are_those_of_float32_rounded(dtype):
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    wide = gradients_of_every_operator(torch.float32, patterns)
    for name, found in gradients_of_every_operator(dtype, patterns).items():
        for got, expected in zip(found, (result.to(dtype) for result in wide[name]), strict=True):
            assert torch.equal(got.isnan(), expected.isnan()), name
            numbers = ~expected.isnan()
            assert torch.equal(got[numbers], expected[numbers]), name


for dtype in (torch.bfloat16, torch.float16):
    check_every_value(dtype)
    check_nan(dtype)
    check_that_results_are_those_of_float32_rounded(dtype)
"""


# In a process of its own, because the instruction set is chosen once.
@pytest.mark.parametrize("capability", available_capabilities())
def test_every_value_is_rounded_as_pytorch_rounds_it_and_nan_stays_nan(capability):
    finished = run(capability, program=PROGRAM)
    assert finished.returncode == 0, finished.stderr
