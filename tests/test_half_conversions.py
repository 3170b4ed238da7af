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


for dtype in (torch.bfloat16, torch.float16):
    check_every_value(dtype)
    check_nan(dtype)
"""


# In a process of its own, because the instruction set is chosen once.
@pytest.mark.parametrize("capability", available_capabilities())
def test_every_value_is_rounded_as_pytorch_rounds_it_and_nan_stays_nan(capability):
    finished = run(capability, program=PROGRAM)
    assert finished.returncode == 0, finished.stderr
