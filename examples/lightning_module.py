"""A Lightning module with our loss: the line that changed is marked.

python examples/lightning_module.py
"""

from __future__ import annotations

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader

import vae_fused as vf


class LitVAE(lightning.LightningModule):
    """A VAE for 8×8 digits."""

    def __init__(self, latent_dim: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * latent_dim))
        self.decoder = nn.Sequential(nn.Linear(latent_dim, 128), nn.ReLU(), nn.Linear(128, 64))
        self.criterion = vf.FusedELBOLoss()  # was: a method with F.mse_loss and the KL written out
        self.losses: list[float] = []

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        """The loss of a batch."""
        mu, logvar = self.encoder(batch).chunk(2, dim=1)
        z, kl = vf.reparameterize_with_kl(mu, logvar)
        terms = self.criterion(self.decoder(z), batch, kl=kl, return_terms=True)
        self.log_dict({"loss": terms.loss, "reconstruction": terms.reconstruction, "kl": terms.kl})
        return terms.loss

    def on_train_epoch_end(self) -> None:
        """Keeps what was logged last."""
        self.losses.append(self.trainer.logged_metrics["loss"].item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over all weights."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(epochs: int = 3) -> list[float]:
    """Train; the loss of the last batch of every epoch, in nats."""
    torch.manual_seed(1)
    pixels = torch.tensor(load_digits().data / 16.0, dtype=torch.float32)
    model = LitVAE()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(pixels, batch_size=128, shuffle=True))
    print("loss by epoch:", ", ".join(f"{loss:.4f}" for loss in model.losses))
    return model.losses


if __name__ == "__main__":
    main()
