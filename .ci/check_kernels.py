"""Prints a table of the CUDA kernels in a built extension, and fails if one of them is beyond its bound.

Usage: python .ci/check_kernels.py EXTENSION

EXTENSION is the extension module, an object file or a cubin. The table is that of compute capability 9.0; the code for
others has to do without spills and stack too, and is shown where it does not. All of it comes from the machine code,
read with cuobjdump and nvdisasm (packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm) and c++filt;
docs/cuda-kernels.md says what the columns and bounds mean.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from kernel_table.sass import read_kernels, readable
from kernel_table.table import ARCHITECTURE, HEADINGS, describe


def find_tools() -> None:
    """Put cuobjdump and nvdisasm of the Python packages on the path, where they are installed."""
    folders = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin"))
    os.environ["PATH"] = os.pathsep.join([*map(str, folders), os.environ["PATH"]])


def main(extension: Path) -> int:
    find_tools()
    try:
        kernels = read_kernels(extension)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip()
        print(f"error: the machine code of {extension} cannot be read: {detail}", file=sys.stderr)
        return 1
    if not kernels:
        print(f"error: {extension} holds no kernel; was the package built with CUDA?", file=sys.stderr)
        return 1
    names = readable([kernel.symbol for kernel in kernels])
    rows = [
        describe(kernel, name) for kernel, name in sorted(zip(kernels, names, strict=True), key=lambda pair: pair[1])
    ]
    print(HEADINGS)
    summaries = []
    for architecture in sorted({kernel.architecture for kernel in kernels}, key=lambda name: (len(name), name)):
        of_it = [row for row in rows if row.kernel.architecture == architecture]
        for row in of_it:
            if architecture == ARCHITECTURE or row.complaints:
                print(row.text() if architecture == ARCHITECTURE else f"{row.text()} ({architecture})")
        failed = sum(bool(row.complaints) for row in of_it)
        summaries.append(f"{architecture}: {len(of_it)} kernels, {failed} beyond their bounds")
    print("\n".join(summaries))
    return 1 if any(row.complaints for row in rows) else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
