"""Floats become half types as PyTorch makes them on every instruction set: to nearest even, subnormals and NaN too."""

from __future__ import annotations

import pytest
from helpers.capabilities import BEST, available_capabilities, run

pytestmark = pytest.mark.skipif(BEST is None, reason="built without the extension")

# The gradient of the squared error is 2 (recon - target), which two halves of different size fill with bits. Every
# element of a half type is a reconstruction, and the batch is no multiple of any vector, so that the last is a part.
PROGRAM = """
import sys
import torch
import vae_fused as vf

dtype = getattr(torch, sys.argv[1])
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
"""


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("capability", available_capabilities())
def test_every_value_is_rounded_as_pytorch_rounds_it(capability, dtype):
    finished = run(capability, dtype, program=PROGRAM)
    assert finished.returncode == 0, finished.stderr


# A target in float32 brings NaN whose bits a half type does not have: with all bits set, rounding alone makes it zero,
# and with only the last one set an infinity.
NAN_PROGRAM = """
import sys
import torch
import vae_fused as vf

leaf = torch.zeros(1, 71, dtype=getattr(torch, sys.argv[1]), requires_grad=True)
target = torch.zeros(1, 71)
bits = target.view(torch.int32)
bits[0, ::3], bits[0, 1::9], bits[0, 2::9] = 0x7fffffff, -1, 0x7f800001
vf.elbo_loss(leaf, target, kl=torch.zeros(1)).backward()
assert torch.equal(leaf.grad.isnan(), target.isnan())
"""


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("capability", available_capabilities())
def test_nan_of_any_payload_stays_nan(capability, dtype):
    finished = run(capability, dtype, program=NAN_PROGRAM)
    assert finished.returncode == 0, finished.stderr
