"""What the names in a torch pickle stand for, as plain data.

A checkpoint's pickle names classes and functions. None of them is ever imported or called here: the few
that describe tensors become the values below, those known to be harmless become `Opaque`, and any other
name makes the file unsafe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bridge_core import LimitExceeded, MalformedFile
from bridge_torch.storage_classes import STORAGE_DTYPES

__all__ = [
    "Global",
    "Opaque",
    "Storage",
    "TensorRef",
    "UnsupportedTensor",
    "call",
    "is_allowed",
]


@dataclass(frozen=True, eq=False, slots=True)
class Global:
    """A name of a class or function; never resolved."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The dotted name."""
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False, slots=True)
class Opaque:
    """An object that holds no weights; its content is not kept."""

    kind: str


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """A run of elements that tensors view.

    Args:
        key: Its name in the file.
        dtype: torch's name of the element type; ``"untyped"`` counts bytes.
        numel: Number of elements.
    """

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True, eq=False, slots=True)
class TensorRef:
    """A view into a storage, unchecked: the numbers are as the file has them.

    Args:
        storage: What it views.
        dtype: torch's name of the dtype.
        offset: First element.
        shape: Sizes of the axes.
        strides: In elements.
        conj: The values are the complex conjugates of what is stored.
        neg: The values are the negatives of what is stored.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conj: bool = False
    neg: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class UnsupportedTensor:
    """A tensor of a kind that is not read: sparse, quantised, nested and so on."""

    kind: str


_DTYPE_NAMES = frozenset(
    [
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "bfloat16", "complex32", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
        *("float4_e2m1fn_x2", "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"),
        *("qint8", "qint32", "quint8", "quint4x2", "quint2x4"),
        *(f"{sign}int{width}" for sign in ("", "u") for width in range(1, 8)),
    ]
)

_STORAGE_MODULES = frozenset({"torch", "torch.storage", "torch.cuda"})
_TENSOR_TYPES = frozenset(
    {
        "torch.Tensor",
        "torch._tensor.Tensor",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
    }
)

_HARMLESS = frozenset(
    [
        *(f"builtins.{name}" for name in ("complex", "dict", "frozenset", "list", "object", "set")),
        *(f"builtins.{name}" for name in ("bytes", "float", "int", "range", "slice", "str", "tuple")),
        *("argparse.Namespace", "types.SimpleNamespace", "copyreg._reconstructor"),
        *("pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath"),
        *("datetime.date", "datetime.datetime", "datetime.timedelta", "decimal.Decimal", "uuid.UUID"),
        *("numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar"),
        *("numpy.ndarray", "numpy.dtype", "numpy.bool_"),
        *(f"numpy.{sign}int{width}" for sign in ("", "u") for width in (8, 16, 32, 64)),
        *(f"numpy.float{width}" for width in (16, 32, 64)),
        *("torch.device", "torch.serialization._get_layout", "torch.memory_format"),
        *("torch.per_tensor_affine", "torch.per_channel_affine", "torch.per_tensor_symmetric"),
        *("torch.per_channel_symmetric", "torch.per_channel_affine_float_qparams"),
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "lightning.pytorch.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "lightning.fabric.utilities.data.AttributeDict",
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    ]
)

_ALIASES = {"__builtin__": "builtins", "copy_reg": "copyreg", "torch.tensor": "torch._tensor"}


def is_allowed(name: Global) -> bool:
    """Tell whether a file may name this class or function."""
    path = _path(name)
    if name.module in _STORAGE_MODULES and name.name in STORAGE_DTYPES:
        return True
    if name.module == "torch" and name.name in _DTYPE_NAMES:
        return True
    return path in _CALLS or path in _UNREAD or path in _TENSOR_TYPES or path in _HARMLESS


def call(function: Any, args: Any) -> Any:
    """Return what calling an allowed name would give, as plain data; nothing is called.

    Raises:
        MalformedFile: The arguments do not fit.
        LimitExceeded: The call asks for memory.
    """
    if isinstance(function, Opaque | UnsupportedTensor):
        return Opaque("object")
    if not isinstance(function, Global):
        raise MalformedFile(f"calls {_shown(function)}, which is no function.")
    path = _path(function)
    if path in _UNREAD:
        return UnsupportedTensor(_UNREAD[path])
    if path in _TENSOR_TYPES:
        return UnsupportedTensor(f"{path} without a storage")
    handler = _CALLS.get(path)
    if handler is None:
        return Opaque(path)
    if not isinstance(args, tuple):
        raise MalformedFile(f"calls {path} with {_shown(args)} in place of arguments.")
    return handler(args)


_MAX_AXES = 256
"""More than any tensor has; keeps a file from having one long value checked again and again."""


def _path(name: Global) -> str:
    module = _ALIASES.get(name.module, name.module)
    if module.startswith("numpy._core."):
        module = "numpy.core." + module.removeprefix("numpy._core.")
    return f"{module}.{name.name}"


def _shown(value: Any) -> str:
    if isinstance(value, Global):
        return value.path
    if isinstance(value, Opaque | UnsupportedTensor):
        return value.kind
    return f"a {type(value).__name__}"


def _bad(what: str, args: tuple[Any, ...]) -> MalformedFile:
    shown = ", ".join(_shown(value) for value in args[:9])
    return MalformedFile(f"{what} has arguments that do not fit: ({shown}).")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integers(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) <= _MAX_AXES and all(map(_is_count, value))


def _tensor(args: tuple[Any, ...], dtype: str | None, flags: Any) -> Any:
    storage, offset, shape, strides = args
    if not isinstance(storage, Storage) or not _is_count(offset):
        raise _bad("a tensor", args)
    if not _integers(shape) or not _integers(strides):
        raise _bad("a tensor", args)
    if flags is None or isinstance(flags, Opaque):
        flags = {}
    if not isinstance(flags, dict) or len(flags) > _MAX_AXES:
        raise _bad("a tensor's metadata", (flags,))
    if not all(isinstance(on, bool) for on in flags.values()):
        raise _bad("a tensor's metadata", (flags,))
    unknown = [name for name, on in flags.items() if on and name not in ("conj", "neg")]
    if unknown:
        return UnsupportedTensor(f"flagged {unknown[0]!r}")
    return TensorRef(
        storage,
        dtype or storage.dtype,
        offset,
        tuple(shape),
        tuple(strides),
        conj=bool(flags.get("conj")),
        neg=bool(flags.get("neg")),
    )


def _tensor_v1(args: tuple[Any, ...]) -> Any:
    if len(args) != 4:
        raise _bad("_rebuild_tensor", args)
    return _tensor(args, None, None)


def _tensor_v2(args: tuple[Any, ...]) -> Any:
    if len(args) not in (6, 7):
        raise _bad("_rebuild_tensor_v2", args)
    return _tensor(args[:4], None, args[6] if len(args) == 7 else None)


def _tensor_v3(args: tuple[Any, ...]) -> Any:
    if len(args) not in (7, 8):
        raise _bad("_rebuild_tensor_v3", args)
    dtype = args[6]
    if not isinstance(dtype, Global) or dtype.module != "torch" or dtype.name not in _DTYPE_NAMES:
        raise _bad("_rebuild_tensor_v3", args)
    return _tensor(args[:4], dtype.name, args[7] if len(args) == 8 else None)


def _first_tensor(args: tuple[Any, ...]) -> Any:
    if not args or not isinstance(args[0], TensorRef | UnsupportedTensor):
        raise _bad("a parameter", args)
    return args[0]


def _from_type(args: tuple[Any, ...]) -> Any:
    if len(args) != 4 or not isinstance(args[1], Global) or not isinstance(args[0], Global):
        raise _bad("_rebuild_from_type_v2", args)
    if _path(args[0]) == "torch._tensor._rebuild_from_type_v2":
        raise _bad("_rebuild_from_type_v2", args)
    if _path(args[1]) not in _TENSOR_TYPES:
        return UnsupportedTensor(_path(args[1]))
    return call(args[0], args[2])


def _mapping(args: tuple[Any, ...]) -> Any:
    if not args:
        return {}
    pairs = args[0]
    if len(args) == 1 and isinstance(pairs, dict):
        return dict(pairs)
    if len(args) == 1 and isinstance(pairs, list | tuple):
        result = {}
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str | int):
                raise _bad("a dict", args)
            result[pair[0]] = pair[1]
        return result
    raise _bad("a dict", args)


def _default_dict(args: tuple[Any, ...]) -> Any:
    return _mapping(args[1:])


def _size(args: tuple[Any, ...]) -> Any:
    if len(args) != 1 or not _integers(args[0]):
        raise _bad("torch.Size", args)
    return tuple(args[0])


def _bytes(args: tuple[Any, ...]) -> Any:
    if args and _is_count(args[0]):
        raise LimitExceeded("asks for an empty buffer of memory, which no weights need.")
    return Opaque("bytes")


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _tensor_v1,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first_tensor,
    "torch._utils._rebuild_parameter_with_state": _first_tensor,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first_tensor,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": _size,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _default_dict,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _bytes,
}

_UNREAD = {
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "on the meta device, without values",
    "torch._utils._rebuild_wrapper_subclass": "a tensor subclass without values",
    "torch._utils._rebuild_device_tensor_from_numpy": "kept as a numpy array",
}
