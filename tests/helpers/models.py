"""Small standard models, a batch for them, and their gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import vae_fused as vf

ITEM_SHAPE = (1, 8, 8)
MODELS: dict[str, Callable[[], vf.VAE]] = {
    "mlp": lambda: vf.mlp_vae(ITEM_SHAPE, 6, (32,)),
    "conv": lambda: vf.conv_vae(ITEM_SHAPE, 6, (4, 8)),
}
both_models = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())


def batch(count: int = 4, device: torch.device | str = "cpu") -> Tensor:
    return torch.rand(count, *ITEM_SHAPE).to(device)


def gradients(loss: Tensor, model: torch.nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))
