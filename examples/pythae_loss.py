"""A pythae model with our loss: one line of its ``loss_function``, and pythae's own trainer around it.

python examples/pythae_loss.py
"""

from __future__ import annotations

import tempfile

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from sklearn.datasets import load_digits
from torch import Tensor

import vae_fused as vf

criterion = vf.FusedELBOLoss.like("pythae")


class FusedVAE(VAE):
    """pythae's VAE, whose loss is one kernel call."""

    def loss_function(self, recon_x: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor) -> vf.ELBOTerms:
        """The loss, its reconstruction and its KL, in the order that pythae expects."""
        return criterion(recon_x.flatten(1), x.flatten(1), mu, log_var, return_terms=True)  # the change


def main(epochs: int = 3) -> list[float]:
    """Train; the average loss on the held-out digits before and after, in nats."""
    torch.manual_seed(1)
    pixels = torch.tensor(load_digits().data / 16.0, dtype=torch.float32).view(-1, 1, 8, 8)
    training, held_out = pixels[:1500], pixels[1500:]
    model = FusedVAE(VAEConfig(input_dim=(1, 8, 8), latent_dim=8))
    with torch.no_grad():
        before = model({"data": held_out}).loss.item()
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(output_dir=folder, num_epochs=epochs, learning_rate=1e-3, no_cuda=True)
        BaseTrainer(model, BaseDataset(training, torch.zeros(len(training))), training_config=config).train()
    with torch.no_grad():
        after = model({"data": held_out}).loss.item()
    print(f"loss before {before:.4f}, after {epochs} epochs {after:.4f}")
    return [before, after]


if __name__ == "__main__":
    main()
