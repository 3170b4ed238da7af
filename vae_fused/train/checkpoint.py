"""Checkpoints: the weights in safetensors, with the configuration of the model in the file's metadata."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import torch

from vae_fused._version import __version__
from vae_fused.models import VAE
from vae_fused.train.errors import InputError, needs_train_extra
from vae_fused.train.model_config import ModelConfig

CHECKPOINT_NAME = "model.safetensors"
_METADATA_KEY = "vae_fused"


def save_checkpoint(path: str | os.PathLike[str], model: VAE, config: ModelConfig) -> None:
    """Write a checkpoint; an older file is replaced at once, so an interrupt leaves one of the two.

    Args:
        path: the file.
        model: the model, on any device.
        config: the configuration that built it.

    Raises:
        OSError: the file cannot be written.
        ImportError: safetensors is not installed.

    Example:
        >>> config = ModelConfig("mlp", (1, 8, 8), 20, (400,), "sigmoid")
        >>> save_checkpoint("model.safetensors", config.build(), config)  # doctest: +SKIP
    """
    with needs_train_extra():
        from safetensors.torch import save_file

    path = Path(path)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    # One entry, because safetensors writes several in random order, and equal models should make equal files.
    description = json.dumps({"version": __version__, "model": dataclasses.asdict(config)})
    save_file(state, partial, metadata={_METADATA_KEY: description})
    partial.replace(path)


def load_checkpoint(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> VAE:
    """Rebuild the model of a checkpoint.

    Args:
        path: the ``.safetensors`` file, or the folder of a run, which holds ``model.safetensors``.
        device: where the model goes.

    Returns:
        The model with its weights, in evaluation mode.

    Raises:
        ValueError: the file is missing, unreadable, or not a checkpoint of this package.
        ImportError: safetensors is not installed.

    Example:
        >>> model = load_checkpoint("runs/digits")  # doctest: +SKIP
        >>> images = model.sample(16)  # doctest: +SKIP
    """
    with needs_train_extra():
        import safetensors

    path = Path(path)
    if path.is_dir():
        path = path / CHECKPOINT_NAME
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if _METADATA_KEY not in metadata:
        raise InputError(f"{path} is not a vae_fused checkpoint: its metadata has no model configuration")
    try:
        model = ModelConfig.from_json(json.loads(metadata[_METADATA_KEY])["model"]).build()
        model.load_state_dict(state)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is not a vae_fused checkpoint: {error}") from error
    return model.to(device).eval()
