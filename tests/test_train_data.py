"""The training command's data and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training import train
from PIL import Image

from vae_fused.train import load_checkpoint
from vae_fused.train.data import load_data, split_data
from vae_fused.train.pictures import as_images, tile

# Data


def test_digits_are_all_there() -> None:
    digits = load_data("digits")
    assert digits.shape == (1797, 1, 8, 8)
    assert digits.dtype == torch.float32
    assert (digits.min(), digits.max()) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("array", "shape", "largest"),
    [
        (np.full((3, 4), 0.5), (3, 4), 0.5),
        (np.full((3, 5, 4), 51, np.uint8), (3, 1, 5, 4), 0.2),
        (np.full((3, 5, 4), 16, np.int64), (3, 1, 5, 4), 1.0),
        (np.full((3, 2, 5, 4), -2.5, np.float32), (3, 2, 5, 4), -2.5),
        (np.ones((7, 6, 5, 3), bool), (7, 3, 6, 5), 1.0),
        (np.ones((7, 3, 6, 4), np.float16), (7, 3, 6, 4), 1.0),
    ],
    ids=["vectors", "uint8", "int64", "channels first", "channels last", "ambiguous is channels first"],
)
def test_arrays(array: np.ndarray, shape: tuple[int, ...], largest: float, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "one.npz", anything=array)
    np.savez(tmp_path / "named.npz", y_train=np.zeros(3), x_train=array)
    for name in ("a.npy", "one.npz", "named.npz"):
        data = load_data(str(tmp_path / name))
        assert data.shape == shape
        assert data.dtype == torch.float32
        assert data.max().item() == pytest.approx(largest)


def test_channels_last_keeps_the_pixels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((2, 6, 5, 3), dtype=np.float32)
    np.save(tmp_path / "a.npy", array)
    assert torch.equal(load_data(str(tmp_path / "a.npy")), torch.from_numpy(array).permute(0, 3, 1, 2))


def test_a_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    gray = np.arange(30, dtype=np.uint8).reshape(5, 6)
    Image.fromarray(gray).save(tmp_path / "a.png")
    Image.fromarray(255 - gray).save(tmp_path / "sub" / "b.PNG")
    data = load_data(str(tmp_path))
    assert data.shape == (2, 1, 5, 6)
    assert torch.equal((data * 255).round().to(torch.uint8)[:, 0], torch.from_numpy(np.stack([gray, 255 - gray])))

    Image.fromarray(np.stack([gray, 2 * gray, 3 * gray], axis=-1)).save(tmp_path / "c.png")
    colour = load_data(str(tmp_path))
    assert colour.shape == (3, 3, 5, 6)
    assert torch.equal((colour[1] * 255).round().to(torch.uint8)[2], torch.from_numpy(3 * gray))


def test_a_run_on_a_folder_and_on_data_outside_the_unit_range(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(6):
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    assert train(tmp_path / "colour", "--model", "conv", data=str(folder)) == 0
    assert load_checkpoint(tmp_path / "colour").sample(2).shape == (2, 3, 9, 7)

    np.save(tmp_path / "vectors.npy", rng.normal(size=(12, 5)))
    assert train(tmp_path / "vectors", data=str(tmp_path / "vectors.npy")) == 0
    config = json.loads((tmp_path / "vectors" / "config.json").read_text())
    assert config["model"]["output_activation"] is None


def test_the_split_is_a_partition_that_the_seed_decides() -> None:
    data = torch.arange(20.0).unsqueeze(1)
    split, same, other = (split_data(data, 0.25, seed) for seed in (0, 0, 1))
    assert len(split.held_out) == 5
    assert sorted(torch.cat([split.train, split.held_out]).flatten().tolist()) == list(range(20))
    assert torch.equal(split.held_out, same.held_out)
    assert not torch.equal(split.held_out, other.held_out)
    assert len(split_data(data[:2], 0.99, 0).train) == 1


# Pictures


def test_tiles_lie_where_they_belong() -> None:
    images = as_images(torch.tensor([0.0, 0.5, 0.25]).view(3, 1, 1, 1).expand(3, 1, 4, 4))
    sheet = tile(images, 2)
    assert sheet.shape == (11, 11, 3)
    assert (sheet[1:5, 1:5] == 0.0).all()
    assert (sheet[1:5, 6:10] == 0.5).all()
    assert (sheet[6:10, 1:5] == 0.25).all()
    assert (sheet[6:10, 6:10] == 1.0).all()
    assert as_images(torch.zeros(2, 16)).shape == (2, 4, 4, 3)
    assert as_images(torch.zeros(2, 15)).shape == (2, 1, 15, 3)
