"""What is recorded of a file that was written: its bytes as one digest, and a checksum of each tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge_core.io import Location, is_plain_name, open_location
from bridge_core.state import FlatState, Key, join_key
from bridge_core.work.digests import file_digest
from bridge_core.work.json_fields import Fields

__all__ = ["TensorSum", "WrittenFile", "tensor_sums"]


@dataclass(frozen=True)
class TensorSum:
    """A tensor of a file.

    Args:
        dtype: Name of its dtype.
        shape: Its shape.
        crc32: CRC-32 of its little-endian row-major bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    crc32: int

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"dtype": self.dtype, "shape": list(self.shape), "crc32": f"{self.crc32:08x}"}

    @classmethod
    def of_json(cls, fields: Fields) -> TensorSum:
        """Return the tensor that a document records.

        Raises:
            MalformedFile: A field is missing or of another type.
        """
        text = fields.text("crc32")
        try:
            crc32 = int(text, 16)
        except ValueError:
            raise fields.error(f"expected 8 hexadecimal digits as 'crc32', got {text!r}") from None
        return cls(fields.text("dtype"), fields.numbers("shape"), crc32)


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written.

    Args:
        name: Its name in the destination.
        size: Bytes.
        sha256: SHA-256 of its bytes.
        tensors: Name -> its tensors, parts of names escaped as `join_key` does; none in an index or a sidecar
            file.
    """

    name: str
    size: int
    sha256: str
    tensors: Mapping[str, TensorSum] = field(default_factory=dict)

    @classmethod
    def of(
        cls, place: Location, tensors: Mapping[str, TensorSum] | None = None, *, name: str | None = None
    ) -> WrittenFile:
        """Return what is recorded of a file, which is read.

        Args:
            place: Where it is now.
            tensors: Its tensors; None for none.
            name: Its name in the destination; None for the present one.

        Raises:
            SystemFailure: It cannot be read.
        """
        with open_location(place) as file:
            size = file.size
        return cls(name or place.name, size, file_digest(place), tensors or {})

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        tensors = {name: tensor.to_json() for name, tensor in self.tensors.items()}
        return {
            "name": self.name,
            "size": self.size,
            "sha256": self.sha256,
            **({"tensors": tensors} if tensors else {}),
        }

    @classmethod
    def of_json(cls, fields: Fields) -> WrittenFile:
        """Return the file that a document records.

        Raises:
            MalformedFile: A field is missing or of another type.
        """
        if not is_plain_name(fields.text("name")):
            raise fields.error(f"{fields.text('name')!r} is not the name of a file in the folder")
        tensors = fields.objects_by_name("tensors") if fields.has("tensors") else {}
        return cls(
            fields.text("name"),
            fields.number("size"),
            fields.digest("sha256"),
            {name: TensorSum.of_json(tensor) for name, tensor in tensors.items()},
        )


def tensor_sums(state: FlatState, keys: Mapping[Key, int]) -> dict[str, TensorSum]:
    """Return what is recorded of the tensors of a file.

    Args:
        state: The state that has them.
        keys: Key -> CRC-32 of the tensors of the file.
    """
    specs = {key: state.spec(key) for key in keys}
    return {
        join_key(key, escape=True): TensorSum(spec.dtype.name, spec.shape, keys[key])
        for key, spec in specs.items()
    }
