"""Shapes and dtypes of the output layer's results, for tracing; see :mod:`vae_fused._fake`.

The arguments of the layer are those of :func:`vae_fused._arguments_linear.check_linear_reconstruction`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vae_fused._arguments import accumulation_dtype
from vae_fused._arguments_linear import check_linear_reconstruction
from vae_fused._fake_results import reduced


def _linear_reconstruction(*layer: Any) -> Tensor:
    check_linear_reconstruction(*layer)
    hidden, *_, reduction, _ = layer
    return reduced(hidden, reduction, torch.float64)


def _gradients(
    output_mask: Sequence[bool], operands: Sequence[Tensor | None], dtype: torch.dtype | None
) -> tuple[Tensor | None, ...]:
    """Contiguous gradients, in one dtype or each in that of its operand."""
    return tuple(
        of.new_empty(of.shape, dtype=dtype) if wanted and of is not None else None
        for wanted, of in zip(output_mask, operands, strict=True)
    )


def _linear_reconstruction_with_gradients(*layer_and_mask: Any) -> tuple[Tensor | None, ...]:
    *layer, output_mask = layer_and_mask
    operands = layer[:3]  # hidden, weight, bias
    return _linear_reconstruction(*layer), *_gradients(output_mask, operands, accumulation_dtype(operands[0].dtype))


def _linear_reconstruction_backward(grad_loss: Tensor, *layer_and_mask: Any) -> tuple[Tensor | None, ...]:
    *layer, output_mask = layer_and_mask
    return _gradients(output_mask, layer[:4], None)


def _scale_gradients_(gradients: Sequence[Tensor], factor: Tensor) -> None:
    return None


OUTPUT_LAYER_FAKES: dict[str, Callable[..., Any]] = {
    "linear_reconstruction": _linear_reconstruction,
    "linear_reconstruction_with_gradients": _linear_reconstruction_with_gradients,
    "linear_reconstruction_backward": _linear_reconstruction_backward,
    "scale_gradients_": _scale_gradients_,
}
