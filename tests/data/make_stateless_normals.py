"""Writes stateless_normals.json: normals of PyTorch's own stateless generator, by which ours is measured everywhere.

Needs torch >= 2.15, whose generator runs on a CPU: ``python tests/data/make_stateless_normals.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.func import _random

WHOLE = 2**64
KEYS = [
    (42, 0),
    (0, 0),
    (1, 1),
    (WHOLE - 1, WHOLE - 1),
    (1234567890123456789, WHOLE - 2),
    (2**63, WHOLE - 7),
    (2**32, 2**32 - 3),
    (987654321, 2**63 - 1),
]
SIZES = [1, 2, 3, 5, 31]
LONG = 1_000_003  # of which the last elements are kept
KEPT = 6
DTYPES = ["float32", "float64"]


def main() -> None:
    cases = []
    for seed, offset in KEYS:
        key = torch.tensor([seed, offset], dtype=torch.uint64)
        for name in DTYPES:
            for size in SIZES:
                values = _random.normal(key, (size,), dtype=getattr(torch, name)).tolist()
                cases.append({"seed": seed, "offset": offset, "dtype": name, "size": size, "last": values})
    for seed, offset in ((42, 0), (7, WHOLE - 1000)):
        key = torch.tensor([seed, offset], dtype=torch.uint64)
        for name in DTYPES:
            values = _random.normal(key, (LONG,), dtype=getattr(torch, name))[-KEPT:].tolist()
            cases.append({"seed": seed, "offset": offset, "dtype": name, "size": LONG, "last": values})
    # One case a line: a diff then shows which one changed.
    lines = ",\n".join(json.dumps(case) for case in cases)
    path = Path(__file__).with_name("stateless_normals.json")
    path.write_text(f'{{"torch": "{torch.__version__.split("+")[0]}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
