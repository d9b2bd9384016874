"""Runs the command as ``python -m bridge_core``."""

from bridge_core.cli import main

if __name__ == "__main__":
    main(prog_name="ckptbridge")
