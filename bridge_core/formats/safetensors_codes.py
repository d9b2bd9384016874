"""The numbers and names of the safetensors format, which its reader and its writer share."""

from __future__ import annotations

from bridge_core.state import DTYPES, MARKER, TensorSpec

__all__ = [
    "CODES",
    "DOTTED",
    "FRAMEWORKS",
    "HEADER_CAP",
    "METADATA",
    "NIBBLES",
    "SEQUENCE",
    "stored_bytes",
]

CODES = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
"""Code -> dtype, in the library's order: tensors of later codes come first in a file."""

HEADER_CAP = 100_000_000
"""Bytes; readers refuse a longer header."""
METADATA = "__metadata__"
NIBBLES = DTYPES["float4_e2m1fn"]
"""The dtype of which two elements are stored in a byte, the first in the low bits."""
FRAMEWORKS = {"pt": "torch", "flax": "flax"}
"""The usual ``format`` in the metadata -> the layout."""
DOTTED = frozenset({"pt"})
"""Values of ``format`` that mean names joined by dots, whatever other characters the names hold."""
SEQUENCE = f"{MARKER}.order"
"""Metadata with the state's order of keys, as numbers into the sorted keys; files order tensors by dtype."""


def stored_bytes(spec: TensorSpec) -> int:
    """Return the bytes that a tensor takes in a file."""
    return spec.nbytes // 2 if spec.dtype == NIBBLES else spec.nbytes
