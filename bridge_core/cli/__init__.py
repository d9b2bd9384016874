"""The command ``ckptbridge``."""

from bridge_core.cli.app import main

__all__ = ["main"]
