"""What a training run is asked to do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """The flags of ``vae-fused train``, with their defaults.

    Attributes:
        data: ``"digits"``, a ``.npy`` or ``.npz`` file, or a folder of images.
        out: the folder that the run writes to.
        model: ``"mlp"`` or ``"conv"``.
        epochs: passes over the training data.
        batch_size: items a step.
        latent_dim: number of latents.
        beta: weight of the KL. The objective, squared error + beta * KL, is beta times the negative log-likelihood
            bound of pixels with variance beta / 2, up to a constant; the default takes a standard deviation of 0.22,
            near the contrast of fine strokes in [0, 1]. At 1.0 small images keep two or three latents in use.
        lr: learning rate of Adam.
        held_out: fraction of the items kept for evaluation.
        seed: decides the split, the weights, the order of the batches and all noise; below 2**32.
        device: a torch device; by default the GPU if there is one.
    """

    data: str
    out: Path
    model: str = "mlp"
    epochs: int = 100
    batch_size: int = 128
    latent_dim: int = 20
    beta: float = 0.1
    lr: float = 2e-3
    held_out: float = 0.1
    seed: int = 0
    device: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The settings as values that JSON can hold."""
        return {**dataclasses.asdict(self), "out": str(self.out)}
