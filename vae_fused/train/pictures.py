"""Pictures of a run: reconstructions beside originals, samples from the prior, curves of the metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vae_fused.train.errors import InputError, needs_train_extra
from vae_fused.train.trainer import EpochMetrics

with needs_train_extra():
    # The object interface draws with Agg, whatever display there is, and keeps no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

_COLUMNS = 10
_TILE_INCHES = 0.55


def as_images(items: Tensor) -> NDArray[np.float32]:
    """Items as ``[N, height, width, 3]``: gray is repeated, other channel counts are averaged, vectors are folded.

    A vector with a square number of features becomes a square, any other a row.
    """
    array = items.detach().float().cpu()
    if array.dim() == 2:
        side = math.isqrt(array.shape[1])
        array = array.unflatten(1, (side, side) if side * side == array.shape[1] else (1, array.shape[1])).unsqueeze(1)
    if array.shape[1] != 3:
        array = array.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    images: NDArray[np.float32] = array.permute(0, 2, 3, 1).numpy()
    return images


def tile(images: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """One picture of all images in rows of ``columns``, with a white gap between them; the values are in [0, 1]."""
    count, height, width, _ = images.shape
    gap = max(1, height // 16)
    rows = math.ceil(count / columns)
    sheet = np.ones((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), dtype=np.float32)
    for index, image in enumerate(images):
        top, left = gap + (index // columns) * (height + gap), gap + (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _to_unit_range(images: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = np.clip((images - low) / max(high - low, 1e-12), 0.0, 1.0)
    return scaled


def _range(images: NDArray[np.float32]) -> tuple[float, float]:
    # Data in [0, 1] are shown as they are; the rest by their own range.
    low, high = float(images.min()), float(images.max())
    return min(low, 0.0), max(high, 1.0)


def _draw_sheet(path: Path, images: NDArray[np.float32], columns: int, title: str, row_names: Sequence[str]) -> None:
    sheet = tile(images, columns)
    rows = math.ceil(len(images) / columns)
    aspect = sheet.shape[0] / sheet.shape[1]
    width = columns * _TILE_INCHES
    figure = Figure(figsize=(width + 1.5, min(width * aspect, 40.0) + 0.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    if row_names:
        step = (sheet.shape[0]) / rows
        axes.set_yticks([step * (row + 0.5) - 0.5 for row in range(rows)], row_names[:rows], fontsize=8)
        axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    try:
        # With a format given, the file has the name that was asked for; else matplotlib adds a suffix to a bare name.
        figure.savefig(path, format=path.suffix[1:] or "png")
    except ValueError as error:  # a format that matplotlib does not know
        raise InputError(f"{path} cannot be written: {error}") from error


def draw_reconstructions(path: Path, originals: Tensor, reconstructions: Tensor) -> None:
    """Rows of originals, each with the row of their reconstructions beneath."""
    columns = min(_COLUMNS, len(originals))
    shown = len(originals) // columns * columns
    original, reconstruction = as_images(originals[:shown]), as_images(reconstructions[:shown])
    low, high = _range(original)
    pairs = np.stack(
        [images.reshape(-1, columns, *images.shape[1:]) for images in (original, reconstruction)], axis=1
    ).reshape(-1, *original.shape[1:])
    names = ["original", "reconstruction"] * (shown // columns)
    _draw_sheet(path, _to_unit_range(pairs, low, high), columns, "Held-out items and their reconstructions", names)


def draw_samples(path: Path, samples: Tensor) -> None:
    """A sheet of samples from the prior."""
    images = as_images(samples)
    columns = min(_COLUMNS, len(images))
    _draw_sheet(path, _to_unit_range(images, *_range(images)), columns, "Samples from the prior", ())


def draw_curves(path: Path, history: Sequence[EpochMetrics], beta: float) -> None:
    """The loss and its two terms over the epochs, training and held out."""
    figure = Figure(figsize=(12.0, 3.6), dpi=120, layout="constrained")
    panels = (
        ("loss", f"loss = reconstruction + {beta:g} KL"),
        ("reconstruction", "reconstruction"),
        ("kl", "KL"),
    )
    epochs = [metrics.epoch for metrics in history]
    marker = "o" if len(epochs) == 1 else ""  # a single point has no line
    for axes, (name, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for part, label in (("train", "training"), ("held_out", "held out")):
            axes.plot(epochs, [getattr(metrics, f"{part}_{name}") for metrics in history], label=label, marker=marker)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_ylabel("nats per item")
        axes.grid(alpha=0.3)
        axes.legend()
    _write(figure, path)
