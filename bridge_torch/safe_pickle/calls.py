"""The meaning of the classes and functions that a torch pickle names, as plain data.

None of them is imported or called. The few that describe tensors and dicts give those; every other name gives
an `Opaque`, which is foreign unless the name is in a list of harmless ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge_core import KeyConflict, LimitExceeded, MalformedFile
from bridge_torch.safe_pickle.values import (
    Global,
    Opaque,
    Storage,
    TensorRef,
    UnsupportedTensor,
    kept_parts,
)
from bridge_torch.storage_classes import STORAGE_DTYPES

__all__ = ["call", "described", "named", "set_item"]


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

_DICT_TYPES = frozenset(
    {
        "builtins.dict",
        "collections.OrderedDict",
        "collections.Counter",
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "lightning.pytorch.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "lightning.fabric.utilities.data.AttributeDict",
    }
)
"""Classes whose objects are read as dicts, since they store each item under its own key."""

_HARMLESS = frozenset(
    [
        *(f"builtins.{name}" for name in ("complex", "frozenset", "list", "object", "set")),
        *(f"builtins.{name}" for name in ("bytes", "float", "int", "range", "slice", "str", "tuple")),
        *("argparse.Namespace", "types.SimpleNamespace"),
        *("pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath"),
        *("datetime.date", "datetime.datetime", "datetime.timedelta", "decimal.Decimal", "uuid.UUID"),
        *("numpy.core.multiarray.scalar", "numpy.core.numeric._frombuffer"),
        *("numpy.ndarray", "numpy.dtype", "numpy.bool_"),
        *(f"numpy.{sign}int{width}" for sign in ("", "u") for width in (8, 16, 32, 64)),
        *(f"numpy.float{width}" for width in (16, 32, 64)),
        *("torch.device", "torch.serialization._get_layout", "torch.memory_format"),
        *("torch.per_tensor_affine", "torch.per_channel_affine", "torch.per_tensor_symmetric"),
        *("torch.per_channel_symmetric", "torch.per_channel_affine_float_qparams"),
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    ]
)

_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "torch.tensor": "torch._tensor"}
_PYTHON_2 = {"long": "int", "unicode": "str", "xrange": "range"}
"""Builtins of Python 2, which protocols 0 to 2 may name -> those of Python 3."""


def named(module: str, name: str) -> Global:
    """Return the `Global` of a name in a file."""
    current = _MODULES.get(module, module)
    if current.startswith("numpy._core."):
        current = "numpy.core." + current.removeprefix("numpy._core.")
    path = f"{current}.{_PYTHON_2.get(name, name) if current == 'builtins' else name}"
    is_known = (
        (module in _STORAGE_MODULES and name in STORAGE_DTYPES)
        or (module == "torch" and name in _DTYPE_NAMES)
        or any(path in names for names in (_CALLS, _UNREAD, _TENSOR_TYPES, _HARMLESS))
    )
    return Global(module, name, path, is_foreign=not is_known)


def call(function: Any, args: Any) -> Any:
    """Return the result of a call in a pickle, as plain data; nothing is called.

    Args:
        function: The function or class; the result is an `Opaque` unless `_CALLS` has its name.
        args: Its arguments, a tuple unless the file is damaged.

    Raises:
        MalformedFile: The arguments are not those of the function, and none of them is an `Opaque`.
        LimitExceeded: The call allocates memory.
    """
    kind = type(function)
    if kind is Opaque or kind is UnsupportedTensor:
        return Opaque(function.kind, is_foreign=True, parts=kept_parts((function, args)))
    if kind is not Global:
        raise MalformedFile(f"a call: expected the name of a class or function, got {described(function)}.")
    handler = _CALLS.get(function.known_as)
    if handler is None:
        return _not_read(function, args)
    if type(args) is not tuple:
        raise MalformedFile(f"the arguments of {function.path}: expected a tuple, got {described(args)}.")
    try:
        return handler(args)
    except MalformedFile:
        unread = next((arg for arg in args if type(arg) is Opaque), None)
        if unread is None:
            raise
        return Opaque(unread.kind, is_foreign=True, parts=kept_parts(args))


def set_item(target: dict[Any, Any], key: Any, value: Any) -> None:
    """Set an item of a dict that a file describes.

    Raises:
        KeyConflict: The dict has the key.
        MalformedFile: The key is a list or a dict.
    """
    key = _dict_key(key)
    if key in target:
        shown = repr(key[:200]) if isinstance(key, str) else described(key)
        raise KeyConflict(f"a dict has the key {shown} twice.")
    target[key] = value


def _dict_key(key: Any) -> Any:
    """Return the key, or in its place an object whose hash cannot recurse or be made to collide."""
    if isinstance(key, list | dict):
        raise MalformedFile(f"a dict has {described(key)} as a key; expected a value with a hash.")
    if key is None or isinstance(key, str | bool | Global | Opaque):
        return key
    if isinstance(key, int) and abs(key) < _PLAIN_KEYS:
        return key
    return Opaque(_KEY_KINDS.get(type(key), type(key).__name__), parts=kept_parts([key]))


def _not_read(function: Global, args: Any) -> Any:
    """Return the value for a call of a name that `_CALLS` does not have."""
    if function.known_as in _UNREAD:
        return UnsupportedTensor(_UNREAD[function.known_as])
    if function.known_as in _TENSOR_TYPES:
        return UnsupportedTensor(f"{function.known_as} without a storage")
    path = function.path if function.is_foreign else function.known_as
    return Opaque(path, function.is_foreign, kept_parts(args if type(args) is tuple else (args,)))


_KEY_KINDS: dict[type, str] = {TensorRef: "tensor", UnsupportedTensor: "tensor", Storage: "storage"}
_PLAIN_KEYS = 1 << 16
"""Integers below hash to themselves, and are too few for a dict of them to be made slow."""
_MAX_AXES = 256
"""More than any tensor has; without it, a file could have one long value checked again and again."""


def described(value: Any) -> str:
    """Return what a value of a pickle is, for messages: its dotted name, its number, or its type.

    >>> described(None), described([]), described(Global("posix", "system"))
    ('None', 'a list', 'posix.system')
    """
    if isinstance(value, Global | Opaque | UnsupportedTensor):
        name = (value.path if isinstance(value, Global) else value.kind)[:200]
        return name if name.isprintable() else ascii(name)
    if isinstance(value, TensorRef | Storage):
        return "a tensor" if isinstance(value, TensorRef) else "a storage"
    if value is None or isinstance(value, int):
        return ascii(value)[:80]
    return f"a {type(value).__name__}"


def _bad(what: str, args: tuple[Any, ...]) -> MalformedFile:
    shown = ", ".join(described(value) for value in args[:9])
    return MalformedFile(f"{what} has arguments of wrong number or type: ({shown}).")


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
    if flags is None or (isinstance(flags, Opaque) and not flags.is_foreign):
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
    function, kind = args[:2]
    if function.known_as == "torch._tensor._rebuild_from_type_v2":
        raise _bad("_rebuild_from_type_v2", args)
    if kind.is_foreign:
        return Opaque(kind.path, is_foreign=True, parts=kept_parts(args))
    if kind.known_as not in _TENSOR_TYPES:
        return UnsupportedTensor(kind.known_as)
    return call(function, args[2])


def _instance(args: tuple[Any, ...]) -> Any:
    """Return an object of the class that is the first argument; the class is not called."""
    if not args or not isinstance(args[0], Global):
        raise _bad("an object", args)
    kind, rest = args[0], args[1:]
    if kind.known_as in _DICT_TYPES and len(rest) == 2 and isinstance(rest[1], dict):
        return dict(rest[1])
    return _not_read(kind, rest)


def _mapping(args: tuple[Any, ...]) -> Any:
    if not args:
        return {}
    pairs = args[0]
    if len(args) == 1 and isinstance(pairs, dict):
        return dict(pairs)
    if len(args) == 1 and isinstance(pairs, list | tuple):
        result: dict[Any, Any] = {}
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str | int):
                raise _bad("a dict", args)
            set_item(result, pair[0], pair[1])
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
        raise LimitExceeded(
            f"the pickle allocates a buffer of {described(args[0])} bytes, which no weights need."
        )
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
    **dict.fromkeys(_DICT_TYPES, _mapping),
    "collections.defaultdict": _default_dict,
    "copyreg._reconstructor": _instance,
    "copyreg.__newobj__": _instance,
    "numpy.core.multiarray._reconstruct": _instance,
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
    "torch._utils._rebuild_device_tensor_from_numpy": "stored as a numpy array",
}
