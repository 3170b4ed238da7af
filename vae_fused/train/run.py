"""The training run from settings to files, and sampling from what it left."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch

from vae_fused._version import __version__
from vae_fused.models import VAE
from vae_fused.train.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from vae_fused.train.data import Split, load_data, split_data
from vae_fused.train.errors import InputError, needs_train_extra
from vae_fused.train.model_config import ModelConfig
from vae_fused.train.noise import prior_key
from vae_fused.train.pictures import draw_curves, draw_reconstructions, draw_samples
from vae_fused.train.settings import Settings
from vae_fused.train.threads import fitting_threads
from vae_fused.train.trainer import EpochMetrics, train_epochs

with needs_train_extra():
    import safetensors.torch  # noqa: F401  the first checkpoint is written after an epoch: too late to find it missing
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PICTURED_ITEMS = 50
_PICTURED_SAMPLES = 100


def resolve_device(name: str | None) -> torch.device:
    """The device of a name; without one the GPU, if there is one.

    Raises:
        InputError: there is no such device, or it cannot be used.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"--device {name} cannot be used: {reason[0]}") from error
    return device


def _build_model(config: ModelConfig, seed: int, device: torch.device) -> VAE:
    # Built on the CPU, so that a seed gives the same initial weights on every device.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return config.build().to(device)


def _make_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"--out must be a folder, {path} is a file")
    path.mkdir(parents=True, exist_ok=True)


def run_training(settings: Settings) -> EpochMetrics:
    """Train as the settings say, write the run's files and print the held-out figures.

    The folder ``settings.out`` gets ``config.json``, ``metrics.jsonl`` (a row an epoch), ``model.safetensors`` (renewed
    after each epoch), ``reconstructions.png``, ``samples.png`` and ``curves.png``. All input is checked before anything
    is written.

    Returns:
        The metrics of the last epoch.

    Raises:
        InputError: data, device or folder cannot be used.
        TrainingError: the loss is no longer finite.
    """
    device = resolve_device(settings.device)
    data = load_data(settings.data)
    shape = tuple(data.shape[1:])
    in_unit_range = bool((data >= 0).all() and (data <= 1).all())
    split = split_data(data, settings.held_out, settings.seed)
    del data  # the split is a copy
    split = Split(train=split.train.to(device), held_out=split.held_out.to(device))
    config = ModelConfig.standard(settings.model, shape, settings.latent_dim, "sigmoid" if in_unit_range else None)
    model = _build_model(config, settings.seed, device)
    if not in_unit_range:
        print("The data leave [0, 1], so the decoder has no sigmoid.", file=sys.stderr)

    out = settings.out
    _make_folder(out)
    description = {"vae_fused": __version__, "settings": settings.as_json(), "model": dataclasses.asdict(config)}
    (out / "config.json").write_text(json.dumps(description, indent=2) + "\n")
    with fitting_threads(model, settings.batch_size):
        history = _train_and_record(model, split, settings, config)

    shown = split.held_out[:_PICTURED_ITEMS]
    draw_reconstructions(out / "reconstructions.png", shown, model.reconstruct(shown))
    draw_samples(out / "samples.png", model.sample(_PICTURED_SAMPLES, key=prior_key(settings.seed)))
    draw_curves(out / "curves.png", history, settings.beta)

    last = history[-1]
    print(f"held-out ELBO            {-last.held_out_loss:10.4f} nats per item")
    print(f"held-out reconstruction  {last.held_out_reconstruction:10.4f} nats per item")
    print(f"held-out KL              {last.held_out_kl:10.4f} nats per item")
    print(f"ELBO = -(reconstruction + {settings.beta:g} KL); written to {out}")
    return last


def _train_and_record(model: VAE, split: Split, settings: Settings, config: ModelConfig) -> list[EpochMetrics]:
    history: list[EpochMetrics] = []
    columns = (
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with (
        (settings.out / "metrics.jsonl").open("w") as metrics_file,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("", total=settings.epochs)
        for metrics in train_epochs(model, split, settings):
            history.append(metrics)
            metrics_file.write(json.dumps(dataclasses.asdict(metrics)) + "\n")
            metrics_file.flush()
            save_checkpoint(settings.out / CHECKPOINT_NAME, model, config)
            progress.update(task, advance=1, description=f"held-out ELBO {-metrics.held_out_loss:.3f} nats")
    return history


def run_sampling(checkpoint: Path, out: Path, *, count: int, seed: int, device: str | None) -> None:
    """Write a picture of ``count`` samples from the prior of a checkpoint.

    Raises:
        InputError: the checkpoint, the device or the picture's format cannot be used.
    """
    model = load_checkpoint(checkpoint, resolve_device(device))
    draw_samples(out, model.sample(count, key=prior_key(seed)))
    print(f"written to {out}")
