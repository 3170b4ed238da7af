"""Imports an installed CUDA build and shows that every operator with a CPU kernel has a CUDA kernel; needs no GPU."""

from __future__ import annotations

import sys

import torch

import vae_fused


def main() -> int:
    info = vae_fused.build_info()
    for name, value in info.items():
        print(f"{name:20} {value}")
    if not (info["extension"] and info["cuda"]):
        print("error: this is not a CUDA build")
        return 1
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    operators = sorted(name for name in torch._C._dispatch_get_all_op_names() if name.startswith("vae_fused::"))
    with_cpu = [name for name in operators if has_kernel(name, "CPU")]
    missing = [name for name in with_cpu if not has_kernel(name, "CUDA")]
    for name in with_cpu:
        print(f"{name:50} {'no CUDA kernel  <-- FAILS' if name in missing else 'CUDA kernel registered'}")
    if not with_cpu:
        print("error: no vae_fused operator is registered")
    return 1 if missing or not with_cpu else 0


if __name__ == "__main__":
    sys.exit(main())
