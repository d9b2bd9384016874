"""What holds for every test: how XLA compiles, and how many examples Hypothesis draws."""

import os

from support.examples import load_profile

# Each model runs once, so that XLA's expensive optimizations do not pay.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

load_profile()
