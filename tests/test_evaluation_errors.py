"""vf.evaluate: its progress bar, and what it refuses."""

from __future__ import annotations

import sys

import pytest
import torch
from helpers.evaluation import Encoding, assert_same, posteriors
from torch import nn

import vae_fused as vf


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
