"""What holds for every test: XLA compiles without its expensive optimizations, since each model runs once."""

import os

from support.missing import skip_what_needs_missing_packages

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

skip_what_needs_missing_packages()

collect_ignore = ["support"]  # no tests, and no doctests
