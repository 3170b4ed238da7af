"""The standard encoders and decoders: fully connected, and convolutional for images of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from vae_fused import _checks as checks
from vae_fused.models.vae import VAE

__all__ = ["conv_vae", "mlp_vae"]

_OUTPUT_ACTIVATIONS = ("sigmoid", None)


def _sizes(name: str, value: object) -> tuple[int, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a sequence of integers, got {checks.type_name(value)}")
    for size in value:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} must hold integers, got {checks.type_name(size)}")
        if size < 1:
            raise ValueError(f"{name} must hold sizes of at least 1, got {list(value)}")
    return tuple(value)


def _check_output_activation(output_activation: object) -> None:
    if output_activation not in _OUTPUT_ACTIVATIONS:
        raise ValueError(f"output_activation must be 'sigmoid' or None, got {output_activation!r}")


def mlp_vae(
    input_shape: int | Sequence[int],
    latent_dim: int = 20,
    hidden_dims: Sequence[int] = (400,),
    *,
    output_activation: str | None = "sigmoid",
    fused_output_layer: bool = False,
) -> VAE:
    """A fully connected VAE with ReLU layers; the decoder mirrors the encoder.

    Args:
        input_shape: shape of one item without the batch, of any rank; an integer is a vector.
        latent_dim: number of latents.
        hidden_dims: widths of the encoder's layers; the decoder has them in reverse.
        output_activation: ``"sigmoid"`` (default) for data in [0, 1], or ``None`` for data on the whole real line and
            for logits.
        fused_output_layer: ``model.loss`` takes the last layer and the objective in one, as for :class:`VAE`: the same
            values and parameters in less memory. Only with ``output_activation=None``.

    Returns:
        A :class:`VAE` that maps ``[B, *input_shape]`` to itself.

    Raises:
        TypeError: sizes that are not integers.
        ValueError: sizes below 1, no hidden layer, an unknown ``output_activation``, or ``fused_output_layer`` with a
            sigmoid.

    Example:
        >>> model = mlp_vae((1, 28, 28), latent_dim=20, hidden_dims=(400,))
        >>> model.reconstruct(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """
    shape = _sizes("input_shape", (input_shape,) if isinstance(input_shape, int) else input_shape)
    if not shape:
        raise ValueError("input_shape must have at least one dimension, got ()")
    hidden = _sizes("hidden_dims", hidden_dims)
    if not hidden:
        raise ValueError("hidden_dims must hold at least one width, got ()")
    (latent_dim,) = _sizes("latent_dim", (latent_dim,))
    _check_output_activation(output_activation)
    if fused_output_layer and output_activation is not None:
        raise ValueError(f"fused_output_layer needs output_activation=None, got {output_activation!r}")

    elements = math.prod(shape)
    encoder: list[nn.Module] = [nn.Flatten()]
    for width, next_width in pairwise((elements, *hidden)):
        encoder += [nn.Linear(width, next_width), nn.ReLU()]
    decoder: list[nn.Module] = []
    for width, next_width in pairwise((latent_dim, *reversed(hidden))):
        decoder += [nn.Linear(width, next_width), nn.ReLU()]
    decoder.append(nn.Linear(hidden[0], elements))
    if output_activation == "sigmoid":
        decoder.append(nn.Sigmoid())
    decoder.append(nn.Unflatten(1, shape))
    return VAE(
        nn.Sequential(*encoder),
        nn.Sequential(*decoder),
        latent_dim,
        feature_dim=hidden[-1],
        fused_output_layer=fused_output_layer,
    )


def conv_vae(
    input_shape: Sequence[int],
    latent_dim: int = 20,
    channels: Sequence[int] = (32, 64),
    *,
    output_activation: str | None = "sigmoid",
) -> VAE:
    """A convolutional VAE: each encoder layer halves height and width, each decoder layer doubles them again.

    Layers are 4x4 convolutions of stride 2 with ReLU; 4 is a multiple of the stride, which avoids the checkerboard
    of 3x3 transposed convolutions. Odd sizes come back exactly.

    Args:
        input_shape: ``(channels, height, width)`` of one image; each side at least ``2 ** len(channels)``.
        latent_dim: number of latents.
        channels: output channels of the encoder's layers; the decoder has them in reverse.
        output_activation: ``"sigmoid"`` (default) for data in [0, 1], or ``None`` for data on the whole real line and
            for logits.

    Returns:
        A :class:`VAE` that maps ``[B, *input_shape]`` to itself.

    Raises:
        TypeError: sizes that are not integers.
        ValueError: sizes below 1, not three of them, no layer, an image too small for the number of layers, or an
            unknown ``output_activation``.

    Example:
        >>> model = conv_vae((3, 64, 64), latent_dim=64, channels=(32, 64, 128, 256))
        >>> model.sample(2).shape
        torch.Size([2, 3, 64, 64])
    """
    shape = _sizes("input_shape", input_shape)
    if len(shape) != 3:
        raise ValueError(f"input_shape must be (channels, height, width), got {list(shape)}")
    layers = _sizes("channels", channels)
    if not layers:
        raise ValueError("channels must hold at least one layer, got ()")
    smallest = 2 ** len(layers)
    if min(shape[1:]) < smallest:
        raise ValueError(
            f"input_shape must have height and width of at least {smallest} for {len(layers)} layers of stride 2, "
            f"got {list(shape)}"
        )
    (latent_dim,) = _sizes("latent_dim", (latent_dim,))
    _check_output_activation(output_activation)

    heights = [shape[1] >> depth for depth in range(len(layers) + 1)]
    widths = [shape[2] >> depth for depth in range(len(layers) + 1)]
    stages = (shape[0], *layers)
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    for depth, (outer, inner) in enumerate(pairwise(stages)):
        encoder += [nn.Conv2d(outer, inner, kernel_size=4, stride=2, padding=1), nn.ReLU()]
        # Halving drops the last row or column of an odd size; output_padding puts it back.
        odd = (heights[depth] % 2, widths[depth] % 2)
        upsample = nn.ConvTranspose2d(inner, outer, kernel_size=4, stride=2, padding=1, output_padding=odd)
        decoder = [nn.ReLU(), upsample, *decoder]
    bottom = (layers[-1], heights[-1], widths[-1])
    features = math.prod(bottom)
    decoder = [nn.Linear(latent_dim, features), nn.Unflatten(1, bottom), *decoder]
    if output_activation == "sigmoid":
        decoder.append(nn.Sigmoid())
    return VAE(nn.Sequential(*encoder), nn.Sequential(*decoder), latent_dim, feature_dim=features)
