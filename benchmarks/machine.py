"""The facts of a machine and of what runs on it, which stand beside every figure."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import vae_fused as vf

_REPOSITORY = Path(__file__).resolve().parent.parent


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=_REPOSITORY)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    # Of the last core. Clouds cut the name down to the maker's; family and model still tell the generations apart.
    core = dict(tuple(map(str.strip, line.split(":", 1))) for line in lines if ":" in line)
    name = core.get("model name") or platform.processor() or platform.machine()
    return f"{name} (family {core['cpu family']}, model {core['model']})" if "cpu family" in core else name


def _commit() -> str | None:
    # The owner of a copied tree is often another user, which git refuses to read without this.
    git = ("git", "-c", "safe.directory=*")
    commit = _output(*git, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return os.environ.get("VAE_FUSED_COMMIT")
    return f"{commit} with uncommitted changes" if _output(*git, "status", "--porcelain", "-uno") else commit


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What somebody needs to repeat a run on ``device``, ready for JSON; ``None`` stands for unknown."""
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": device.type,
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "platform": platform.platform(),
        "commit": _commit(),
        "vae_fused": vf.build_info(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "gpu_memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "cuda": torch.version.cuda,
        }
    return facts


def machine_line(facts: dict[str, Any]) -> str:
    """The facts in one line."""
    build = facts["vae_fused"]
    parts = [
        f"{facts['gpu']}, driver {facts['driver']}, CUDA {facts['cuda']}" if facts["device"] == "cuda" else
        f"{facts['cpu']}, {facts['threads']} threads, {facts['torch_cpu_capability']}",
        f"torch {build['running_torch']}",
        f"Python {build['python']}",
        f"vae_fused {build['version']}",
        f"commit {facts['commit'] or 'unknown'}",
        facts["date"],
    ]  # fmt: skip
    return " | ".join(parts)


def missing_kernels(facts: dict[str, Any]) -> str | None:
    """A warning if "ours" is only the plain-PyTorch reference on this device, else ``None``."""
    build = facts["vae_fused"]
    if build["extension"] and (facts["device"] != "cuda" or build["cuda"]):
        return None
    where = Path(vf.__file__).parent
    return (
        f"NO KERNELS: vae_fused was imported from {where} without a compiled extension for {facts['device']}, so "
        '"ours" below is the slow plain-PyTorch reference.'
    )
