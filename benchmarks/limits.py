"""The limits of the machine, measured in the same run: the rates of copy, triad and noise, and the clock.

The triad and the clock need a C compiler and x86-64; elsewhere they are left out.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import vae_fused as vf
from timing import copy_rate, host_sampler, interleave

_SOURCE = Path(__file__).with_name("limits.c")
_TRIAD_ELEMENTS = 1 << 25
_ADDITIONS = 1 << 27
# 2**18 normals, 1 MiB, stay in L2.
_NORMALS = 1 << 18


def _compiled() -> ctypes.CDLL | None:
    if platform.machine() != "x86_64":
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limits.so"
        command = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
        try:
            subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return ctypes.CDLL(str(library))


def _triad_rate(library: ctypes.CDLL) -> float:
    # Threads of Python, which a foreign call lets run: a second OpenMP runtime would fight with torch's for the cores.
    threads = torch.get_num_threads()
    count = _TRIAD_ELEMENTS // threads // 4 * 4
    buffers = [[torch.ones(count) for _ in range(3)] for _ in range(threads)]

    def part(index: int) -> None:
        library.triad(*(ctypes.c_void_p(buffer.data_ptr()) for buffer in buffers[index]), ctypes.c_int64(count))

    with ThreadPoolExecutor(threads) as executor:
        sampler = host_sampler(lambda: list(executor.map(part, range(threads))))
        durations = interleave({"triad": sampler}, seconds=1.0, most_rounds=15)["triad"]
    return 3 * 4 * count * threads / min(durations)


def _normals_rate() -> float:
    key = torch.tensor([42, 0], dtype=torch.uint64)
    draw = host_sampler(lambda: vf.standard_normal(key, (_NORMALS,)))
    return _NORMALS / min(interleave({"normals": draw}, seconds=1.0, most_rounds=2000)["normals"])


def limits_now() -> dict[str, float]:
    """What the machine allows now, in bytes or normals per second; the triad where there is a compiler for it."""
    measured = {
        "copy_bytes_per_second": copy_rate(host_sampler, torch.device("cpu")),
        "normals_per_second": _normals_rate(),
    }
    library = _compiled()
    if library is not None:
        measured["triad_bytes_per_second"] = _triad_rate(library)
    return measured


def processor_limits() -> dict[str, float]:
    """Rates per second, by name: the clock, where there is a compiler for it, and the normals."""
    measured: dict[str, float] = {}
    library = _compiled()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if library is not None:
        library.clock_rate.restype = ctypes.c_double
        # Beside the noise, so that both run at the same clock.
        measured["cycles_per_second"] = max(library.clock_rate(ctypes.c_int64(_ADDITIONS)) for _ in range(5))
    measured["normals_per_second_one_thread"] = _normals_rate()
    torch.set_num_threads(threads)
    measured["normals_per_second"] = _normals_rate()
    return measured
