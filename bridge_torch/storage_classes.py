"""torch's storage classes and their dtypes."""

from __future__ import annotations

__all__ = ["STORAGE_DTYPES", "TYPED_STORAGES", "UNTYPED"]

TYPED_STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex128": "ComplexDoubleStorage",
    "complex64": "ComplexFloatStorage",
}
"""Dtype -> the storage class that torch has for it."""

UNTYPED = frozenset(
    [
        *("uint16", "uint32", "uint64"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    ]
)
"""Dtypes without a storage class: torch stores bytes, and the dtype with the tensor."""

STORAGE_DTYPES = {
    **{name: dtype for dtype, name in TYPED_STORAGES.items()},
    "UntypedStorage": "untyped",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
"""Storage class -> the dtype that it implies."""
