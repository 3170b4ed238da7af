"""The limits of the machine, measured in the same run: the rates of triad, copy and noise, and the clock.

The triad and the clock need a C compiler and x86-64; elsewhere they are left out.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import tempfile
from pathlib import Path

import torch

import vae_fused as vf
from timing import copy_rate, host_sampler, interleave

_SOURCE = Path(__file__).with_name("limits.c")
# 201 MB in all, several times what the last cache holds.
_TRIAD_ELEMENTS = 1 << 24
_ADDITIONS = 1 << 27
# 2**18 normals, 1 MiB, stay in L2.
_NORMALS = 1 << 18


def _compiled() -> ctypes.CDLL | None:
    if platform.machine() != "x86_64":
        return None
    compiler = os.environ.get("CC", "cc")
    with tempfile.TemporaryDirectory() as folder:
        compiled, library = Path(folder) / "limits.o", Path(folder) / "limits.so"
        # Not linked with OpenMP: the library then finds torch's own, whose threads it shares. Threads beside them would
        # wait for the cores on which those spin after a parallel region.
        try:
            subprocess.run([compiler, "-O2", "-fPIC", "-fopenmp", "-c", "-o", str(compiled), str(_SOURCE)],
                           capture_output=True, check=True)  # fmt: skip
            subprocess.run([compiler, "-shared", "-o", str(library), str(compiled)], capture_output=True, check=True)
            return ctypes.CDLL(str(library))
        except (OSError, subprocess.CalledProcessError):
            return None


class Triad:
    """Two streams read and one written past the caches, on all threads: a sampler that takes turns with the rivals.

    Memory that others share changes its rate within seconds, so only a triad of the same moments is a limit of theirs.
    """

    bytes_moved = 3 * 4 * _TRIAD_ELEMENTS

    def __init__(self, library: ctypes.CDLL) -> None:
        self._buffers = [torch.ones(_TRIAD_ELEMENTS) for _ in range(3)]
        arguments = [ctypes.c_void_p(buffer.data_ptr()) for buffer in self._buffers]
        self._pass = host_sampler(lambda: library.triad(*arguments, ctypes.c_int64(_TRIAD_ELEMENTS)))

    @classmethod
    def where_it_compiles(cls) -> Triad | None:
        """A triad, ``None`` without a C compiler and on other processors."""
        library = _compiled()
        return None if library is None else cls(library)

    def __call__(self) -> float:
        self._pass()  # untimed: caches and pages then are as a pass of its own leaves them
        return self._pass()


def _normals_rate() -> float:
    key = torch.tensor([42, 0], dtype=torch.uint64)
    draw = host_sampler(lambda: vf.standard_normal(key, (_NORMALS,)))
    return _NORMALS / min(interleave({"normals": draw}, seconds=1.0, most_rounds=2000)["normals"])


def limits_now() -> dict[str, float]:
    """What the machine allows now: bytes copied and normals drawn per second."""
    return {
        "copy_bytes_per_second": copy_rate(host_sampler, torch.device("cpu")),
        "normals_per_second": _normals_rate(),
    }


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
