"""vf.evaluate: its progress bar, and what it refuses."""

from __future__ import annotations

import sys

import pytest
import torch
from helpers.evaluation import Encoding, assert_same, posteriors
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import vae_fused as vf


class Giving(Encoding):
    """A model whose encoder gives the same whatever the data."""

    def __init__(self, given):
        super().__init__(latents=3)
        self.given = given

    def encode(self, x):
        return self.given


class Stream(IterableDataset):
    """Data whose number is not known before their end."""

    def __iter__(self):
        return iter(posteriors(6, 3))


def test_progress_of_data_without_a_length(capsys):
    with torch.random.fork_rng():
        shown = vf.evaluate(Encoding(3), DataLoader(Stream(), batch_size=2), num_samples=2, progress=True)
    assert shown.num_items == 6
    assert "evaluate" in capsys.readouterr().err


def test_progress_changes_no_number(capsys):
    data = posteriors(10, 3)
    plain = vf.evaluate(Encoding(3), data, num_samples=5, batch_size=4)
    capsys.readouterr()
    for source in (data, data.split(4), (part for part in data.split(4))):
        shown = vf.evaluate(Encoding(3), source, num_samples=5, batch_size=4, progress=True)
        assert_same(shown, plain, rtol=1e-13)
        out, err = capsys.readouterr()
        assert out == ""
        assert "evaluate" in err


def test_progress_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(ImportError, match=r"rich is not installed; progress=True needs: pip install"):
        vf.evaluate(Encoding(3), posteriors(4, 3), progress=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1, got 0"),
        ({"num_samples": None}, TypeError, "num_samples must be an integer, got NoneType"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1, got 0"),
        ({"seed": -1}, ValueError, r"seed must be from 0 to 2\*\*64 - 1, got -1"),
        ({"seed": 1.0}, TypeError, "seed must be an integer, got float"),
        ({"model": nn.Linear(2, 2)}, TypeError, "model must have a method encode, got Linear"),
        ({"data": torch.ones(0, 6)}, ValueError, "data must hold at least one item, got none"),
        ({"data": []}, ValueError, "data must hold at least one item, got none"),
        ({"data": 5}, TypeError, "data must be a tensor or an iterable of batches, got int"),
        (
            {"data": TensorDataset(torch.ones(4, 6))},
            TypeError,
            "data must be a tensor or an iterable of batches, got TensorDataset",
        ),
        ({"likelihood": "gaussian"}, TypeError, "likelihood must be a function, got str"),
        ({"model": Encoding}, TypeError, "model must be an instance, got the class Encoding"),
        ({"model": Giving(torch.ones(4, 3))}, TypeError, r"model.encode must give \(mu, logvar\) or a .*, got Tensor"),
        ({"model": Giving((1, 2, 3))}, TypeError, r"model.encode must give \(mu, logvar\) or a .*, got tuple of 3"),
        (
            {"model": Giving(vf.DiagonalGaussian(torch.ones(4, 6), deterministic=True))},
            ValueError,
            "model.encode must give a posterior with a density, got a deterministic DiagonalGaussian",
        ),
        ({"model": Giving((torch.ones(4, 3), [1.0]))}, TypeError, "logvar must be a tensor, got list"),
        (
            {"model": Giving([torch.ones(2, 3), torch.ones(2, 3)])},
            ValueError,
            "mu must have the batch size of x, 4, got 2",
        ),
        (
            {"data": torch.ones(4, 6, dtype=torch.uint8)},
            TypeError,
            "data must be float16, bfloat16, float32 or float64",
        ),
        (
            {"data": [torch.ones(4, 6), "x"]},
            TypeError,
            "data must hold tensors, or tuples that begin with one, got str",
        ),
    ],
)
def test_errors(change, error, message):
    with pytest.raises(error, match=message):
        vf.evaluate(**{"model": Encoding(3), "data": posteriors(4, 3).float(), **change})
