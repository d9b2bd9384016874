"""What holds for every test: XLA compiles without its expensive optimizations, since each model runs once."""

import os

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
