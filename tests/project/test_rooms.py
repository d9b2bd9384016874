"""The rooms: what each shows to the others, what may be loose in a root, and how large a file may be."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import bridge_core
from bridge_core.errors import DeprecatedName
from bridge_core.public import exports

ROOT = Path(__file__).parents[2]
PACKAGES = ("bridge_core", "bridge_flax", "bridge_torch")
SOURCES = sorted(
    path
    for folder in (
        *PACKAGES,
        *(
            f"plugins/{name}/{name.replace('-', '_')}"
            for name in (
                "ckptbridge-hdf5",
                "ckptbridge-orbax",
                "ckptbridge-recipes",
                "ckptbridge-remote",
                "ckptbridge-transformers",
            )
        ),
    )
    for path in (ROOT / folder).rglob("*.py")
)
ROOMS = [path for path in SOURCES if path.name == "__init__.py"]


def name_of(path):
    parts = path.relative_to(ROOT).parts
    return ".".join(parts[2 if parts[0] == "plugins" else 0 : -1])


FIRST_VERSION = [
    "AmbiguousLayerError",
    "Array",
    "ArrayTensor",
    "as_key",
    "as_state",
    "as_tensor",
    "BadInputError",
    "BridgeError",
    "Capabilities",
    "Cast",
    "cast_is_exact",
    "checked_bools",
    "CheckedBlocks",
    "CheckedRange",
    "Checkpoint",
    "compare_states",
    "Comparison",
    "Concat",
    "ConversionError",
    "convert",
    "Copy",
    "default_registry",
    "DestinationExists",
    "Difference",
    "Drop",
    "Dropped",
    "dtype_named",
    "DTYPES",
    "dump_metadata",
    "Extent",
    "FileImage",
    "FileTensor",
    "Fill",
    "flat_names",
    "FlatState",
    "flatten_tree",
    "Flip",
    "Format",
    "Framework",
    "from_neutral",
    "Guidance",
    "hookimpl",
    "Int",
    "IntegrityError",
    "is_floating",
    "join_key",
    "Key",
    "KeyConflict",
    "Lanes",
    "LayerInfo",
    "LayerKind",
    "LayerTransform",
    "LazyTensor",
    "Leaf",
    "Library",
    "LimitExceeded",
    "load",
    "load_metadata",
    "load_rules",
    "LoadedTensor",
    "LossyCastError",
    "MalformedFile",
    "MARKER",
    "Mismatch",
    "MismatchError",
    "MissingDependency",
    "ModuleInfo",
    "natural_order",
    "Offset",
    "Op",
    "open_state",
    "Order",
    "PACKED",
    "Pad",
    "Pattern",
    "Permute",
    "Pick",
    "Plan",
    "plan_conversion",
    "PlanError",
    "PluginConflict",
    "PluginError",
    "Progress",
    "Region",
    "Registry",
    "Relocating",
    "Report",
    "Reshape",
    "Residual",
    "Rule",
    "RuleError",
    "Rules",
    "Same",
    "save_state",
    "Saved",
    "ShardError",
    "ShardNames",
    "SourceFile",
    "Split",
    "split_name",
    "split_names",
    "Stack",
    "StateMetadata",
    "Step",
    "Str",
    "strict_json",
    "StridedFileTensor",
    "Sum",
    "SystemFailure",
    "Tensor",
    "TensorSpec",
    "to_neutral",
    "TruncatedFile",
    "unflatten_tree",
    "Unpad",
    "UnsafeFile",
    "Unstack",
    "Unsum",
    "UnsupportedFeature",
    "UnsupportedLayerError",
    "UsageError",
    "VerificationError",
    "verify",
    "WithZeros",
    "write_all",
    "WriteTarget",
]

LAZY = [path for path in ROOMS if "exports(" in path.read_text()]


@pytest.mark.parametrize("path", LAZY, ids=name_of)
def test_types_and_the_table_of_a_room_list_the_same_names(path):
    package = importlib.import_module(name_of(path))
    (checked,) = (
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    statements = [*checked.body, *ast.parse(path.read_text()).body]
    shown = [alias for node in statements if isinstance(node, ast.ImportFrom) for alias in node.names]
    rooms = {alias.name for alias in shown if f"{name_of(path)}/{alias.name}".replace(".", "/") in IS_FOLDER}
    names = {alias.asname for alias in shown if alias.asname} - rooms
    assert names == set(package.__all__)


IS_FOLDER = {str(path.parent.relative_to(ROOT)) for path in ROOMS}


@pytest.mark.parametrize("path", LAZY, ids=name_of)
def test_every_name_of_a_room_is_there_and_unknown_ones_are_not(path):
    package = importlib.import_module(name_of(path))
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_a_room_opens_with_its_purpose(path):
    purpose = ast.get_docstring(ast.parse(path.read_text()))
    assert purpose
    assert purpose.split("\n\n")[0].endswith(".")


def test_the_root_of_the_core_holds_nothing_loose():
    files = {path.name for path in (ROOT / "bridge_core").iterdir() if path.is_file()}
    assert files == {
        "__init__.py",
        "__main__.py",
        "builtin_plugin.py",
        "error_base.py",
        "errors.py",
        "messages.py",
        "py.typed",
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_over_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_old_names_work_and_warn():
    with pytest.warns(DeprecatedName, match=r"\bbridge_core\.Lanes\b.*\bbridge_core\.ops\.Parallel\b"):
        assert bridge_core.Lanes is bridge_core.ops.Parallel
    with pytest.warns(DeprecatedName, match=r"\bbridge_core\.ops\.Order\b.*\bbridge_core\.ops\.Reorder\b"):
        assert bridge_core.ops.Order is bridge_core.ops.Reorder
    with pytest.warns(DeprecatedName, match=r"\bbridge_core\.load\b.*\bbridge_core\.load_values\b"):
        assert bridge_core.load is bridge_core.load_values


def test_every_name_of_the_first_version_is_still_there():
    for name in FIRST_VERSION:
        if name in bridge_core.__all__:
            assert getattr(bridge_core, name) is not None
        else:
            with pytest.warns(DeprecatedName, match=rf"\bbridge_core\.{name}\b"):
                assert getattr(bridge_core, name) is not None


def test_what_is_asked_for_is_loaded_and_nothing_else():
    code = (
        "import sys, bridge_core\n"
        "loaded = [name for name in sys.modules if name.startswith(('bridge_core.', 'numpy'))]\n"
        "assert all(name.startswith('bridge_core.public') for name in loaded), loaded\n"
        "bridge_core.KeyConflict\n"
        "assert 'bridge_core.errors' in sys.modules and 'bridge_core.state' not in sys.modules\n"
        "bridge_core.Key\n"
        "assert 'bridge_core.state.keys' in sys.modules and 'bridge_core.formats' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_table_may_name_modules_elsewhere():
    load, names, listed = exports(__name__, {"json.decoder": "JSONDecoder"}, moved={"old": "json:loads"})
    assert listed == ["JSONDecoder"]
    assert "JSONDecoder" in names()
    import json

    assert load("JSONDecoder") is json.JSONDecoder
    with pytest.warns(DeprecatedName, match=r"\bjson\.loads\b"):
        assert load("old") is json.loads
