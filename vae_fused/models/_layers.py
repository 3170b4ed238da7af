"""What a :class:`~vae_fused.VAE` has to know of the layers of its encoder and decoder."""

from __future__ import annotations

from torch import Tensor, nn

from vae_fused._arguments import check_target_shape


def encoder_width(encoder: nn.Module) -> int | None:
    """The number of features that an encoder gives, or None where its layers do not say.

    The last layer decides that may change it. A convolution's width depends on the size of its input, which is not
    known here, and a layer of another kind may do anything.
    """
    for module in (encoder, *reversed(list(encoder.modules()))):
        out_features = getattr(module, "out_features", None)
        if isinstance(out_features, int):
            return out_features
        is_layer = next(module.children(), None) is None
        if is_layer and not _keeps_width(module):
            return None
    return None


def _keeps_width(layer: nn.Module) -> bool:
    home = type(layer).__module__
    kinds = ("activation", "batchnorm", "dropout", "flatten", "normalization")
    return isinstance(layer, nn.Identity) or (
        home in {f"torch.nn.modules.{kind}" for kind in kinds} and not isinstance(layer, (nn.GLU, nn.Unflatten))
    )


def _before_reshapes(layers: list[nn.Module]) -> int:
    """How many layers there are before those at the end that only reshape."""
    last = len(layers)
    while last > 0 and isinstance(layers[last - 1], (nn.Unflatten, nn.Flatten, nn.Identity)):
        last -= 1
    return last


def ends_in_sigmoid(decoder: nn.Module) -> bool:
    """Whether the decoder, or the last of its layers that does more than reshape, is an ``nn.Sigmoid``."""
    if not isinstance(decoder, nn.Sequential):
        return isinstance(decoder, nn.Sigmoid)
    layers = list(decoder)
    last = _before_reshapes(layers)
    return last > 0 and ends_in_sigmoid(layers[last - 1])


def split_decoder(decoder: nn.Module) -> tuple[list[nn.Module], nn.Linear, list[nn.Module]]:
    """The layers before the last Linear, the Linear, and what only reshapes its output."""
    layers = list(decoder) if isinstance(decoder, nn.Sequential) else [decoder]
    last = _before_reshapes(layers)
    output = layers[last - 1] if last > 0 else None
    if type(output) is not nn.Linear:
        raise ValueError(
            "fused_output_layer needs a decoder whose last layer is an nn.Linear, followed by nothing but a reshape, "
            f"got {type(output).__name__}"
        )
    return layers[: last - 1], output, layers[last:]


def input_of_output_layer(decoder: nn.Module, z: Tensor, x: Tensor) -> tuple[Tensor, nn.Linear, Tensor]:
    """The input of the decoder's last layer, that layer, and the data in the shape of its output."""
    layers, output, reshapes = split_decoder(decoder)
    hidden = z
    for layer in layers:
        hidden = layer(hidden)
    rows = (*hidden.shape[:-1], output.out_features)
    recon = x.new_empty(()).expand(rows)  # one element: the shape is all that is asked of it
    for reshape in reshapes:
        recon = reshape(recon)
    check_target_shape(recon, x)
    return hidden, output, x.reshape(rows)
