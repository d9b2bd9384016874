"""Flax's msgpack files."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_flax.msgpack.format import MsgpackFormat as MsgpackFormat
else:
    __getattr__, __dir__, __all__ = exports(__name__, {"format": "MsgpackFormat"})
