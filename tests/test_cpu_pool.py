"""The memory pool behind large CPU results: reuse, its limit, its release, and values that no reuse may touch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from helpers.inputs import key_of, latents
from helpers.memory import peak_bytes

import vae_fused as vf

pytestmark = pytest.mark.skipif(not vf.build_info()["extension"], reason="the pool belongs to the extension")

MIB = 1 << 20
FOUR_MIB = (MIB,)  # float32 elements


@pytest.fixture(autouse=True)
def empty_pool():
    vf.release_cpu_pool()
    yield
    vf.release_cpu_pool()


def test_release_gives_back_what_a_tensor_has_left_and_says_how_much():
    noise = vf.standard_normal(key_of(1), FOUR_MIB)
    assert vf.release_cpu_pool() == 0  # a living tensor's memory is not the pool's to give
    del noise
    assert vf.release_cpu_pool() == 4 * MIB
    assert vf.release_cpu_pool() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads what the system says of this process on Linux")
def test_released_memory_goes_back_to_the_system():
    # Once malloc has seen a tensor of this size given up, it keeps what it is given instead of returning it.
    torch.empty(8 * MIB, dtype=torch.uint8).fill_(1)
    results = [vf.standard_normal(key_of(i), FOUR_MIB) for i in range(8)]
    barrier = torch.empty(4 * MIB, dtype=torch.uint8)  # above them, had they come from the heap
    del results
    before = resident_bytes()
    assert vf.release_cpu_pool() == 8 * 4 * MIB
    assert before - resident_bytes() >= 7 * 4 * MIB
    assert barrier.numel()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_later_result_takes_the_memory_of_an_earlier_one():
    earlier = vf.standard_normal(key_of(1), FOUR_MIB)
    address = earlier.data_ptr()
    del earlier
    later = vf.standard_normal(key_of(2), FOUR_MIB)
    assert later.data_ptr() == address
    assert vf.release_cpu_pool() == 0


def test_small_results_do_not_come_from_the_pool():
    noise = vf.standard_normal(key_of(1), (MIB // 4 - 1,))
    del noise
    assert vf.release_cpu_pool() == 0


def test_memory_that_a_view_still_holds_is_not_used_again():
    noise = vf.standard_normal(key_of(1), FOUR_MIB)
    tail = noise[-5:]
    expected = tail.clone()
    del noise
    vf.standard_normal(key_of(2), FOUR_MIB)
    assert torch.equal(tail, expected)


def run(limit, script):
    environment = {**os.environ, "VAE_FUSED_POOL_MIB": limit}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parent,  # not the root of the source, where "-c" would find the package unbuilt
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


KEPT = """
    import torch, vae_fused as vf
    key = torch.tensor([1, 2], dtype=torch.uint64)
    results = [vf.standard_normal(key, (1 << 20,)) for _ in range(5)]
    del results
    print(vf.release_cpu_pool() >> 20)
"""


@pytest.mark.parametrize(("limit", "kept"), [("0", 0), ("3", 0), ("9", 8), ("", 20)])
def test_the_limit_bounds_what_is_kept(limit, kept):
    finished = run(limit, KEPT)
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) == kept


WRONG_LIMITS = ("-1", "many", "1.5")
# Until a limit is right none is set, so one process can go on to the next.
LIMITS = f"""
    import os, torch, vae_fused as vf
    key = torch.tensor([1, 2], dtype=torch.uint64)
    for limit in {(*WRONG_LIMITS, str(10**18))}:
        os.environ["VAE_FUSED_POOL_MIB"] = limit
        try:
            vf.standard_normal(key, (1 << 20,))
        except ValueError as error:
            print(error)
    print(vf.release_cpu_pool() >> 20)
"""


def test_a_limit_that_is_no_number_of_mib_raises():
    finished = run(WRONG_LIMITS[0], LIMITS)
    assert finished.returncode == 0, finished.stderr
    *messages, kept = finished.stdout.splitlines()
    expected = "VAE_FUSED_POOL_MIB must be a number of MiB, 0 or more, got"
    assert messages == [f"{expected} '{wrong}'" for wrong in WRONG_LIMITS]
    assert int(kept) == 4  # more than there can be is no limit


def test_the_profiler_sees_large_results():
    # They do not come from torch's allocator, which reports to the profiler by itself.
    mu, logvar = latents((64, 16_384))
    bytes_of_z = mu.nbytes
    assert bytes_of_z <= peak_bytes(lambda: vf.reparameterize(mu, logvar)) < bytes_of_z + (4 << 20)
