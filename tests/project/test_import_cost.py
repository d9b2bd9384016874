"""What importing costs: no framework, and none of the libraries that only some uses need."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import torch

from bridge_core import FlatState, save_state

FRAMEWORKS = ("torch", "jax", "jaxlib", "flax", "transformers")
ON_FIRST_USE = (*FRAMEWORKS, "rich", "click", "msgpack", "safetensors", "h5py", "pytest", "hypothesis")


def loaded_by(code):
    """Run code in a process of its own; return the top-level modules that it loaded."""
    probe = (
        f"{code}\nimport sys\nprint('\\n'.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("code", ["import torch", "import bridge_core; import rich"])
def test_the_probe_notices_what_is_loaded(code):
    assert loaded_by(code) & set(ON_FIRST_USE)


def test_importing_the_core_loads_nothing_but_numpy_ml_dtypes_and_pluggy():
    found = loaded_by("import bridge_core") - loaded_by("pass") - set(sys.stdlib_module_names)
    assert found <= {"bridge_core", "numpy", "ml_dtypes", "pluggy"}


LIBRARIES = ("h5py", "huggingface_hub", "obstore", "orbax", "requests", "tensorstore")


@pytest.mark.parametrize(
    "package",
    ["bridge_torch", "bridge_flax", "ckptbridge_hdf5", "ckptbridge_orbax", "ckptbridge_remote"],
)
def test_importing_an_adapter_loads_no_framework(package):
    if package.startswith("ckptbridge"):
        pytest.importorskip(package)
    assert not loaded_by(f"import {package}") & {*FRAMEWORKS, *LIBRARIES}


def test_loading_every_plugin_loads_no_framework():
    found = loaded_by("import bridge_core; assert not bridge_core.default_registry().failures")
    assert not found & {*FRAMEWORKS, "rich", "click"}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_commands_own_help_loads_neither_numpy_nor_a_room(option):
    code = f"""
import contextlib, io, sys
from bridge_core.cli import main
with contextlib.redirect_stdout(io.StringIO()) as shown:
    assert main([{option!r}], standalone_mode=False) == 0
assert "ckptbridge" in shown.getvalue()
rooms = {{name.split(".")[1] for name in sys.modules if name.startswith("bridge_core.")}}
assert rooms == {{"cli", "error_base", "errors", "public"}}, rooms
assert not any(name.startswith("bridge_core.cli.commands") for name in sys.modules)
"""
    assert not loaded_by(code) & {"numpy", "ml_dtypes", "pluggy", *FRAMEWORKS, "rich"}


WEIGHTS = {"fc.weight": np.ones((2, 3), np.float32), "fc.bias": np.zeros(2, np.float32)}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    torch.save({name: torch.from_numpy(array) for name, array in WEIGHTS.items()}, folder / "a.pt")
    safetensors.numpy.save_file(WEIGHTS, folder / "a.safetensors")
    return folder


@pytest.mark.parametrize(
    ("source", "target", "to"),
    [
        ("a.pt", "b.msgpack", "flax"),
        ("a.safetensors", "b.msgpack", "flax"),
        ("a.safetensors", "b.npz", "neutral"),
        ("a.safetensors", "b.pt", "torch"),
        ("a.pt", "b.safetensors", "torch"),
    ],
)
def test_converting_files_loads_no_framework(sources, tmp_path, source, target, to):
    code = f"""
from bridge_core import convert, open_state, verify
source, target = {str(sources / source)!r}, {str(tmp_path / target)!r}
convert(source, target, to={to!r})
assert verify(source, target).equal
with open_state(target) as state:
    assert len(state) == 2
"""
    assert not loaded_by(code) & {*FRAMEWORKS, "rich", "click"}


FORMATS = {
    "safetensors": ("bridge_core.formats.safetensors", "SafetensorsFormat"),
    "npz": ("bridge_core.formats.npz", "NpzFormat"),
    "torch": ("bridge_torch.file_format.format", "TorchFormat"),
    "msgpack": ("bridge_flax.msgpack.format", "MsgpackFormat"),
    "hdf5": ("ckptbridge_hdf5.format", "Hdf5Format"),
}
HEAVY = re.compile(
    r"bridge_torch\.(safe_pickle|file_format\.(archive|legacy|reader|storages|writer))"
    r"|bridge_flax\.msgpack\.(reader|state|wire|writer)"
    r"|bridge_core\.formats\.(npy|npz_archive|safetensors_(header|reader|writer)|zip_layout)"
    r"|ckptbridge_hdf5\.(examine|layout|reader|skeleton|writer)"
)


@pytest.fixture(scope="module")
def one_of_each(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    state = FlatState({("fc", "weight"): np.ones((2, 3), np.float32)}, layout="torch")
    for name, suffix in (("safetensors", ""), ("npz", ""), ("torch", ".pt"), ("msgpack", "")):
        save_state(state, folder / f"{name}{suffix}", format=name)
    (folder / "hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (folder / "text").write_text("hello")
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_that_looks_at_files_loads_no_reader_and_no_writer(one_of_each, name):
    module, kind = FORMATS[name]
    if name == "hdf5":
        pytest.importorskip("ckptbridge_hdf5")
    code = f"""
from pathlib import Path
from bridge_core import SourceFile
from {module} import {kind}
claimed = []
for path in sorted(Path({str(one_of_each)!r}).iterdir()):
    with SourceFile(path) as file:
        if {kind}().sniff(file):
            claimed.append(path.stem)
assert claimed == [{name!r}], claimed
import sys
loaded = [name for name in sys.modules if name.startswith(("bridge_", "ckptbridge_"))]
print("\\n".join(loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert module in loaded
    assert [name for name in loaded if HEAVY.match(name)] == []


def test_a_flax_result_returns_to_torch_without_a_framework(sources, tmp_path):
    code = f"""
from bridge_core import convert
convert({str(sources / "a.pt")!r}, {str(tmp_path / "b.msgpack")!r}, to="flax")
convert({str(tmp_path / "b.msgpack")!r}, {str(tmp_path / "c.pt")!r}, to="torch")
"""
    assert not loaded_by(code) & {*FRAMEWORKS, "rich", "click"}
    back = torch.load(tmp_path / "c.pt", weights_only=True)
    assert {name: tensor.tolist() for name, tensor in back.items()} == {
        k: v.tolist() for k, v in WEIGHTS.items()
    }
