"""The pickle of a torch state dict, written opcode by opcode.

The pickle has only what `torch.load(weights_only=True)` reads: protocol 2, an OrderedDict of rebuilt tensors.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from bridge_core import Key, TensorSpec
from bridge_core.state import regions
from bridge_torch.storage_classes import TYPED_STORAGES

__all__ = ["Slot", "write_pickle"]

_BATCH = 1000


@dataclass(frozen=True)
class Slot:
    """How one key is stored in the file.

    Args:
        name: Its dotted name.
        spec: Shape and dtype of its tensor.
        storage: Name of the storage record.
        owner: The key whose tensor the record holds; for a tied key, the canonical key.
    """

    name: str
    spec: TensorSpec
    storage: str
    owner: Key


def write_pickle(slots: Mapping[Key, Slot]) -> bytes:
    """Return the pickle of a state dict, whose tensors are contiguous."""
    emit = _Emitter()
    emit.out += b"\x80\x02"
    emit.ordered_dict()
    values = list(slots.values())
    for start in range(0, len(values), _BATCH):
        emit.out += b"("
        for slot in values[start : start + _BATCH]:
            emit.text(slot.name)
            emit.tensor(slot)
        emit.out += b"u"
    emit.out += b"."
    return bytes(emit.out)


class _Emitter:
    def __init__(self) -> None:
        self.out = bytearray()
        self.memo: dict[bytes, int] = {}

    def once(self, code: bytes) -> None:
        """Write a value the first time, and a reference to it later."""
        index = self.memo.get(code)
        if index is None:
            index = self.memo[code] = len(self.memo)
            self.out += code + b"q" + bytes([index])
        else:
            self.out += b"h" + bytes([index])

    def name(self, module: str, name: str) -> None:
        self.once(b"c" + module.encode() + b"\n" + name.encode() + b"\n")

    def text(self, text: str) -> None:
        raw = text.encode("utf-8")
        self.out += b"X" + struct.pack("<L", len(raw)) + raw

    def word(self, text: str) -> None:
        """Write a string that occurs often, by `once`."""
        self.once(b"X" + struct.pack("<L", len(text)) + text.encode("ascii"))

    def number(self, value: int) -> None:
        if value < 1 << 8:
            self.out += b"K" + struct.pack("<B", value)
        elif value < 1 << 16:
            self.out += b"M" + struct.pack("<H", value)
        elif value < 1 << 31:
            self.out += b"J" + struct.pack("<l", value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little")
            self.out += b"\x8a" + bytes([len(raw)]) + raw

    def numbers(self, values: tuple[int, ...]) -> None:
        if not values:
            self.out += b")"
            return
        self.out += b"("
        for value in values:
            self.number(value)
        self.out += b"t"

    def ordered_dict(self) -> None:
        self.name("collections", "OrderedDict")
        self.out += b")R"

    def tensor(self, slot: Slot) -> None:
        dtype, shape = slot.spec.dtype.name, slot.spec.shape
        typed = TYPED_STORAGES.get(dtype)
        self.name("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        self.out += b"(("
        self.word("storage")
        if typed:
            self.name("torch", typed)
        else:
            self.name("torch.storage", "UntypedStorage")
        self.text(slot.storage)
        self.word("cpu")
        self.number(slot.spec.size if typed else slot.spec.nbytes)
        self.out += b"tQ"
        self.number(0)
        self.numbers(shape)
        self.numbers(regions.row_major_strides(shape))
        self.out += b"\x89"
        self.ordered_dict()
        if not typed:
            self.name("torch", dtype)
        self.out += b"tR"
