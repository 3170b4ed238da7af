"""Short runs of the training command."""

from __future__ import annotations

from pathlib import Path

from vae_fused.train.cli import main


def train(out: Path, *flags: str, data: str = "digits", epochs: int = 1) -> int:
    """The exit code of ``vae-fused train`` on the CPU."""
    return main(["train", "--data", data, "--out", str(out), "--epochs", str(epochs), "--device", "cpu", *flags])
