"""Data sets: scikit-learn's digits, NumPy files, folders of images; all end as one float32 tensor."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_fused.train.errors import InputError, needs_train_extra

_IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
_GRAY_MODES = frozenset({"1", "L", "LA"})
_ARRAY_NAMES = ("x_train", "images", "data", "x")
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Split:
    """Training and held-out items, float32, ``[N, ...]``."""

    train: Tensor
    held_out: Tensor


def load_data(source: str) -> Tensor:
    """Load a data set.

    Args:
        source: ``"digits"`` (1,797 scanned 8x8 digits that scikit-learn brings along), a ``.npy`` or ``.npz`` file with
            ``[N, features]``, ``[N, height, width]``, ``[N, channels, height, width]`` or ``[N, height, width,
            channels]`` (1, 3 or 4 channels, fewer than rows and columns), or a folder of images of one size
            (subfolders included).

    Returns:
        float32, ``[N, features]`` or ``[N, channels, height, width]``. Integers are scaled to [0, 1]: 8-bit by 255,
        others by their largest value. Floating data stay as they are.

    Raises:
        InputError: the source is missing, unreadable, empty, or holds something else.
        MissingExtraError: the package that reads it is not installed.
    """
    if source == "digits":
        return _load_digits()
    path = Path(source)
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise InputError(f"--data must be digits, a .npy or .npz file, or a folder of images; {source} does not exist")
    if path.suffix not in (".npy", ".npz"):
        raise InputError(f"--data must be digits, a .npy or .npz file, or a folder of images, got the file {source}")
    return _from_array(_load_array(path), source)


def split_data(data: Tensor, held_out: float, seed: int) -> Split:
    """Split the items at random, as the seed decides; both parts hold at least one.

    Raises:
        InputError: fewer than two items.
    """
    if len(data) < 2:
        raise InputError(f"--data must hold at least 2 items, to train and to evaluate on, got {len(data)}")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    count = min(max(1, round(held_out * len(data))), len(data) - 1)
    return Split(train=data[order[count:]], held_out=data[order[:count]])


def _load_digits() -> Tensor:
    with needs_train_extra():
        from sklearn.datasets import load_digits
    return torch.from_numpy(load_digits().images).to(torch.float32).unsqueeze(1) / 16.0


def _load_array(path: Path) -> NDArray[np.generic]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return np.asarray(loaded)
        with loaded:
            names = loaded.files
            name = names[0] if len(names) == 1 else next((name for name in _ARRAY_NAMES if name in names), None)
            if name is None:
                expected, found = ", ".join(_ARRAY_NAMES), ", ".join(names) or "none"
                raise InputError(f"{path} must hold one array, or one called {expected}, got {found}")
            return np.asarray(loaded[name])
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _from_array(array: NDArray[np.generic], source: str) -> Tensor:
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating) or array.dtype == bool):
        raise InputError(f"{source} must hold real numbers, got {array.dtype}")
    if array.ndim not in (2, 3, 4):
        raise InputError(f"{source} must hold an array of 2, 3 or 4 dimensions, items first, got shape {array.shape}")
    if array.size == 0:
        raise InputError(f"{source} must not be empty, got shape {array.shape}")
    if array.dtype == np.uint8:
        scale = 255.0
    elif np.issubdtype(array.dtype, np.integer):
        if array.min() < 0:
            raise InputError(f"{source} must hold no negative integers, got {array.min()}")
        scale = float(max(array.max(), 1))
    else:
        scale = 1.0
    data = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)) / scale
    if not torch.isfinite(data).all():
        raise InputError(f"{source} must hold finite numbers, got NaN or infinity")
    if data.dim() == 3:
        return data.unsqueeze(1)
    if data.dim() == 4 and data.shape[3] in _CHANNELS and data.shape[3] < min(data.shape[1:3]):
        return data.permute(0, 3, 1, 2).contiguous()
    return data


def _load_folder(folder: Path) -> Tensor:
    with needs_train_extra():
        from PIL import Image, UnidentifiedImageError

    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{folder} holds no images ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    pictures: list[NDArray[np.uint8]] = []
    size: tuple[int, int] | None = None
    for file in files:
        try:
            with Image.open(file) as image:
                gray = image.mode in _GRAY_MODES
                size = size or image.size
                if image.size != size:
                    raise InputError(
                        f"all images must have one size: {files[0]} is {size[0]}x{size[1]}, "
                        f"{file} is {image.size[0]}x{image.size[1]}"
                    )
                picture = np.asarray(image.convert("L" if gray else "RGB"))
        except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"{os.fspath(file)} cannot be read: {error}") from error
        pictures.append(picture[..., None] if gray else picture)
    channels = max(picture.shape[2] for picture in pictures)
    # A folder that mixes gray and colour is a colour data set.
    array = np.stack([np.broadcast_to(picture, (*picture.shape[:2], channels)) for picture in pictures])
    return torch.from_numpy(array).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255.0
