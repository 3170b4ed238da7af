"""The commands of ``vae-fused`` and their flags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import vae_fused
from vae_fused.train.errors import needs_train_extra
from vae_fused.train.run import run_sampling, run_training
from vae_fused.train.settings import Settings

with needs_train_extra():
    import typer

Abort = typer.Abort
# typer publishes BadParameter alone; its base is the class of every error in the command line.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    help="Variational autoencoders on fused kernels.", add_completion=False, pretty_exceptions_enable=False
)

_MAX_SEED = 2**32 - 1
_defaults = Settings(data="digits", out=Path())


class _Architecture(str, Enum):
    mlp = "mlp"
    conv = "conv"


def _positive(value: float) -> float:
    if not 0.0 < value < float("inf"):
        raise typer.BadParameter(f"{value} is not a positive number")
    return value


def _not_negative(value: float) -> float:
    if not 0.0 <= value < float("inf"):
        raise typer.BadParameter(f"{value} is negative or not finite")
    return value


def _fraction(value: float) -> float:
    if not 0.0 < value < 1.0:
        raise typer.BadParameter(f"{value} is not between 0 and 1")
    return value


_Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default the GPU if there is one.")]


@app.command()
def train(
    data: Annotated[str, typer.Option(help="digits, a .npy or .npz file, or a folder of images.")],
    out: Annotated[Path, typer.Option(help="Folder for everything the run writes; files of an older run go.")],
    model: Annotated[
        _Architecture, typer.Option(help="Fully connected, or convolutional for images.")
    ] = _Architecture.mlp,
    epochs: Annotated[int, typer.Option(min=1)] = _defaults.epochs,
    batch_size: Annotated[int, typer.Option(min=1)] = _defaults.batch_size,
    latent_dim: Annotated[int, typer.Option(min=1)] = _defaults.latent_dim,
    beta: Annotated[
        float,
        typer.Option(callback=_not_negative, help="Weight of the KL: pixels are taken to have the variance beta / 2."),
    ] = _defaults.beta,
    lr: Annotated[float, typer.Option(callback=_positive, help="Learning rate of Adam.")] = _defaults.lr,
    held_out: Annotated[
        float, typer.Option(callback=_fraction, help="Fraction of the data kept for evaluation.")
    ] = _defaults.held_out,
    seed: Annotated[
        int, typer.Option(min=0, max=_MAX_SEED, help="Decides the split, the weights and all noise.")
    ] = _defaults.seed,
    device: _Device = None,
) -> None:
    """Train a VAE; write its checkpoint, metrics and pictures."""
    run_training(
        Settings(
            data=data,
            out=out,
            model=model.value,
            epochs=epochs,
            batch_size=batch_size,
            latent_dim=latent_dim,
            beta=beta,
            lr=lr,
            held_out=held_out,
            seed=seed,
            device=device,
        )
    )


@app.command()
def sample(
    checkpoint: Annotated[Path, typer.Option(help="Folder of a run, or its model.safetensors.")],
    out: Annotated[Path, typer.Option(help="The picture to write, for example samples.png.")],
    count: Annotated[int, typer.Option(min=1, help="Number of samples.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=_MAX_SEED, help="Decides the latents.")] = 0,
    device: _Device = None,
) -> None:
    """Draw samples from the prior of a trained model."""
    run_sampling(checkpoint, out, count=count, seed=seed, device=device)


@app.command()
def info() -> None:
    """Print what this installation was built with, as JSON."""
    print(json.dumps(vae_fused.build_info(), indent=2))


def run(arguments: Sequence[str] | None) -> int:
    """Parse the command line and run the command; errors come out as exceptions."""
    command: Any = typer.main.get_command(app)
    exit_code = command.main(args=arguments, prog_name="vae-fused", standalone_mode=False)
    return exit_code if isinstance(exit_code, int) else 0


def usage_message(error: Any) -> str:
    """What is wrong with the command line."""
    return str(error.format_message())
