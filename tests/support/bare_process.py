"""Runs the command in a process of its own, which fails if it loads a framework; and children for Ctrl-C."""

import subprocess
import sys

FRAMEWORK_LOADED = 99

HEARS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""The first line of a child that gets SIGINT: one started in the background inherits that it is ignored."""

_CODE = f"""
import sys
from bridge_core.cli import main
try:
    main(sys.argv[1:])
finally:
    loaded = {{"torch", "jax", "jaxlib", "flax", "transformers"}} & set(sys.modules)
    if loaded:
        print("loaded:", *sorted(loaded), file=sys.stderr)
        sys.exit({FRAMEWORK_LOADED})
"""


def run_bare(*arguments):
    """Run ``ckptbridge`` with these arguments; return the finished process, whatever its exit code."""
    return subprocess.run(
        [sys.executable, "-c", _CODE, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


def convert_bare(source, destination, *options):
    """Run ``ckptbridge convert``, which must work without a framework where no library is asked."""
    done = run_bare("convert", source, destination, "--quiet", "--model", "none", *options)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return destination
