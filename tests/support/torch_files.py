"""Makes torch files for tests: good ones by hand, and bad ones that torch.save would not write."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

from bridge_core import FlatState, SourceFile, as_state
from bridge_core.transfer.budget import Budget
from bridge_core.transfer.file_writer import FileTarget
from bridge_torch.file_format.format import TorchFormat

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8),
    *(torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
    torch.float8_e8m0fnu,
]
LEGACY_DTYPES = DTYPES[:12]


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def random_tensor(dtype, shape, seed=0):
    """Every bit pattern may occur, NaNs with payloads included."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = torch.empty((), dtype=dtype).element_size()
    raw = torch.randint(0, 256, (*shape, size), generator=generator, dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def bits(tensor):
    """The row-major bytes of a torch tensor."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(tensor.view(torch.uint8).numpy()) if tensor.numel() else b""


def open_torch(path, **options):
    file = SourceFile(path)
    try:
        return TorchFormat(**options).open(file)
    except BaseException:
        file.close()
        raise


def write_torch(state, path, *, workers=2):
    path = Path(path)
    path.touch()
    state = state if isinstance(state, FlatState) else as_state(state, layout="torch")
    TorchFormat().write(state, FileTarget(path, Budget(workers=workers)))
    return path


def assert_same(state, expected):
    """The state holds exactly these torch tensors, bit for bit."""
    assert {".".join(key) for key in state} == set(expected)
    for key in state:
        array, tensor = state[key], expected[".".join(key)]
        assert array.dtype.name == name_of(tensor.dtype), key
        assert array.shape == tuple(tensor.shape), key
        assert array.tobytes() == bits(tensor), key


@dataclass(frozen=True)
class Storage:
    key: str
    numel: int
    kind: type = torch.FloatStorage
    location: str = "cpu"


@dataclass(frozen=True)
class View:
    storage: Storage
    offset: int = 0
    shape: tuple = (4,)
    strides: tuple = (1,)
    flags: dict | None = None

    def __reduce__(self):
        extra = () if self.flags is None else (self.flags,)
        args = (self.storage, self.offset, self.shape, self.strides, False, OrderedDict(), *extra)
        return torch._utils._rebuild_tensor_v2, args


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", value.kind, value.key, value.location, value.numel)
        return None


def dumps(value, protocol=2):
    buffer = io.BytesIO()
    _Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def make_zip(path, root, records=None, *, name="archive", method=zipfile.ZIP_STORED, more=()):
    """A zip archive with this root object (or pickle) and these storages."""
    data = root if isinstance(root, bytes) else dumps(root)
    entries = [("data.pkl", data), *((f"data/{k}", v) for k, v in (records or {}).items()), *more]
    with zipfile.ZipFile(path, "w", method) as archive:
        for entry, content in entries:
            archive.writestr(f"{name}/{entry}" if name else entry, content)
    return path


def change_zip(source, target, change, *, method=zipfile.ZIP_STORED):
    """Copy a zip with right CRCs; ``change(name, content)`` gives new content, or None to leave it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for info in old.infolist():
            content = change(info.filename, old.read(info))
            if content is not None:
                new.writestr(info.filename, content)
    return target
