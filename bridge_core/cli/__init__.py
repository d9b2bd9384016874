"""The command ``ckptbridge``."""

import sys

__all__ = ["main"]

try:
    from bridge_core.cli.app import main
except KeyboardInterrupt:  # from here on, the command itself answers Ctrl-C
    sys.stderr.write("interrupted; nothing is left half written\n")
    sys.exit(130)
