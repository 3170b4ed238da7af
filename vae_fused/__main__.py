"""``python -m vae_fused`` is ``vae-fused``."""

import sys

from vae_fused.train.cli import main

sys.exit(main())
