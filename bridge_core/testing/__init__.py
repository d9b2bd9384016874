"""Contract tests and hypothesis strategies for plugins; needs pytest and hypothesis.

Subclass a contract in your own tests and give it your object; pytest collects the rest. Nothing in the
bridge imports this package.
"""

from __future__ import annotations

from bridge_core.errors import MissingDependency

try:
    import hypothesis  # noqa: F401 - asked for here, so that its absence is named
    import pytest
except ImportError as err:
    raise MissingDependency(
        f"bridge_core.testing needs {err.name}, which is not installed.",
        hint="Run `pip install pytest hypothesis`.",
    ) from err

pytest.register_assert_rewrite(
    "bridge_core.testing.array_ops",
    "bridge_core.testing.array_ops_harness",
    "bridge_core.testing.comparison",
    "bridge_core.testing.file_system_entries",
    "bridge_core.testing.file_system_errors",
    "bridge_core.testing.file_system_harness",
    "bridge_core.testing.file_system_reading",
    "bridge_core.testing.file_system_writing",
    "bridge_core.testing.file_systems",
    "bridge_core.testing.folders",
    "bridge_core.testing.format_damage",
    "bridge_core.testing.format_declarations",
    "bridge_core.testing.format_keys",
    "bridge_core.testing.format_laziness",
    "bridge_core.testing.format_lifetime",
    "bridge_core.testing.format_metadata",
    "bridge_core.testing.format_sniffing",
    "bridge_core.testing.format_writing",
    "bridge_core.testing.formats",
    "bridge_core.testing.framework_harness",
    "bridge_core.testing.framework_reading",
    "bridge_core.testing.framework_structure",
    "bridge_core.testing.framework_values",
    "bridge_core.testing.frameworks",
    "bridge_core.testing.harness",
    "bridge_core.testing.layer_harness",
    "bridge_core.testing.layer_neighbours",
    "bridge_core.testing.layers",
    "bridge_core.testing.libraries",
    "bridge_core.testing.model_runs",
    "bridge_core.testing.recipes",
    "bridge_core.testing.run_values",
    "bridge_core.testing.values",
)

from bridge_core.testing.array_ops import ArrayOpsContract  # noqa: E402 - assertions are rewritten on import
from bridge_core.testing.file_systems import FileSystemContract  # noqa: E402 - as above
from bridge_core.testing.folders import FolderFormatContract  # noqa: E402 - as above
from bridge_core.testing.formats import FormatContract  # noqa: E402 - as above
from bridge_core.testing.frameworks import FrameworkContract  # noqa: E402 - as above
from bridge_core.testing.harness import read_state, write_state  # noqa: E402 - as above
from bridge_core.testing.layers import LayerContract  # noqa: E402 - as above
from bridge_core.testing.libraries import LibraryContract  # noqa: E402 - as above
from bridge_core.testing.model_runs import ModelRunContract  # noqa: E402 - as above
from bridge_core.testing.recipes import RecipeContract, RecipeSample  # noqa: E402 - as above
from bridge_core.testing.strategies import (  # noqa: E402 - as above
    arrays,
    bit_patterns,
    flat_states,
    keys,
    regions_of,
    same_bits,
    tensor_specs,
)

__all__ = [
    "ArrayOpsContract",
    "arrays",
    "bit_patterns",
    "FileSystemContract",
    "flat_states",
    "FolderFormatContract",
    "FormatContract",
    "FrameworkContract",
    "keys",
    "LayerContract",
    "LibraryContract",
    "ModelRunContract",
    "read_state",
    "RecipeContract",
    "RecipeSample",
    "regions_of",
    "same_bits",
    "tensor_specs",
    "write_state",
]
