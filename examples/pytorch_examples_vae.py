"""The VAE of pytorch/examples, with the kernels: the two lines that changed are marked.

    python examples/pytorch_examples_vae.py --epochs 5

The data are scikit-learn's 1,797 scanned digits, 8×8 pixels, instead of MNIST, so that nothing is downloaded.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader

import vae_fused as vf

PIXELS = 64


class VAE(nn.Module):
    """One hidden layer on either side of a Gaussian latent."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(PIXELS, 400)
        self.fc21 = nn.Linear(400, 20)
        self.fc22 = nn.Linear(400, 20)
        self.fc3 = nn.Linear(20, 400)
        self.fc4 = nn.Linear(400, PIXELS)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior."""
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu: Tensor, logvar: Tensor, key: Tensor | None = None) -> Tensor:
        """A sample of the posterior."""
        return vf.reparameterize(mu, logvar, key=key)  # was: mu + torch.randn_like(std) * std, std = exp(0.5 * logvar)

    def decode(self, z: Tensor) -> Tensor:
        """Pixels between 0 and 1."""
        h3 = F.relu(self.fc3(z))
        return torch.sigmoid(self.fc4(h3))

    def forward(self, x: Tensor, key: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The reconstruction, and the posterior."""
        mu, logvar = self.encode(x.view(-1, PIXELS))
        return self.decode(self.reparameterize(mu, logvar, key)), mu, logvar


loss_function = vf.FusedELBOLoss.like("pytorch-examples")  # was: BCE + KLD, written out


def digits() -> tuple[Tensor, Tensor]:
    """Images for training and for the test, ``[N, 1, 8, 8]``, between 0 and 1."""
    images = torch.tensor(load_digits().images / 16.0, dtype=torch.float32).unsqueeze(1)
    return images[:1500], images[1500:]


def main(epochs: int = 5, seed: int = 1) -> list[float]:
    """Train and test; the average test loss after every epoch, in nats."""
    torch.manual_seed(seed)
    training, held_out = digits()
    loader = DataLoader(training, batch_size=128, shuffle=True)
    model = VAE()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    test_losses = []
    for epoch in range(1, epochs + 1):
        train_loss = 0.0
        for x in loader:
            optimizer.zero_grad()
            recon, mu, logvar = model(x)
            loss = loss_function(recon, x.view(-1, PIXELS), mu, logvar)
            loss.backward()
            train_loss += loss.item()
            optimizer.step()
        with torch.no_grad():
            recon, mu, logvar = model(held_out)
            test_loss = loss_function(recon, held_out.view(-1, PIXELS), mu, logvar)
            test_losses.append(test_loss.item() / len(held_out))
        print(f"epoch {epoch}: training loss {train_loss / len(training):.4f}, test loss {test_losses[-1]:.4f}")
    return test_losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="the VAE of pytorch/examples on scanned digits")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.seed)
