"""The configuration that rebuilds a model; a checkpoint carries it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vae_fused.models import VAE, conv_vae, mlp_vae
from vae_fused.train.errors import InputError

# Written out in full into every checkpoint, so that it outlives a change of these defaults.
_DEFAULT_HIDDEN = {"mlp": (400,), "conv": (32, 64)}


@dataclass(frozen=True)
class ModelConfig:
    """Everything that :func:`vae_fused.mlp_vae` or :func:`vae_fused.conv_vae` is called with.

    Attributes:
        architecture: ``"mlp"`` or ``"conv"``.
        input_shape: shape of one item.
        latent_dim: number of latents.
        hidden: ``hidden_dims`` of the MLP, ``channels`` of the convolutions.
        output_activation: ``"sigmoid"`` or ``None``.
    """

    architecture: str
    input_shape: tuple[int, ...]
    latent_dim: int
    hidden: tuple[int, ...]
    output_activation: str | None

    @classmethod
    def standard(
        cls, architecture: str, input_shape: tuple[int, ...], latent_dim: int, output_activation: str | None
    ) -> ModelConfig:
        """The configuration with the standard hidden layers."""
        return cls(architecture, input_shape, latent_dim, _DEFAULT_HIDDEN[architecture], output_activation)

    def build(self) -> VAE:
        """The model, with fresh weights from the default generator.

        Raises:
            InputError: the sizes do not make a model.
        """
        try:
            if self.architecture == "mlp":
                return mlp_vae(self.input_shape, self.latent_dim, self.hidden, output_activation=self.output_activation)
            if self.architecture == "conv":
                return conv_vae(
                    self.input_shape, self.latent_dim, self.hidden, output_activation=self.output_activation
                )
        except (TypeError, ValueError) as error:
            raise InputError(f"no {self.architecture} model for these data: {error}") from error
        raise InputError(f"architecture must be mlp or conv, got {self.architecture!r}")

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelConfig:
        """The configuration of a JSON object, in which tuples have become lists.

        Raises:
            KeyError: a field is missing.
            TypeError: a field too many, or of a wrong type.
        """
        return cls(**{**fields, "input_shape": tuple(fields["input_shape"]), "hidden": tuple(fields["hidden"])})
