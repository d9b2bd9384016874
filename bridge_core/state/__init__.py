"""What a checkpoint is in memory: keys, lazy tensors, metadata."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.state.dtypes import DTYPES as DTYPES
    from bridge_core.state.dtypes import MAX_RANK as MAX_RANK
    from bridge_core.state.dtypes import PACKED as PACKED
    from bridge_core.state.dtypes import cast_is_exact as cast_is_exact
    from bridge_core.state.dtypes import dtype_named as dtype_named
    from bridge_core.state.dtypes import is_floating as is_floating
    from bridge_core.state.dtypes import native as native
    from bridge_core.state.flat_state import FlatState as FlatState
    from bridge_core.state.flat_state import as_state as as_state
    from bridge_core.state.keys import Key as Key
    from bridge_core.state.keys import LeafKey as LeafKey
    from bridge_core.state.keys import as_key as as_key
    from bridge_core.state.keys import flat_names as flat_names
    from bridge_core.state.keys import flatten_tree as flatten_tree
    from bridge_core.state.keys import is_unicode as is_unicode
    from bridge_core.state.keys import join_key as join_key
    from bridge_core.state.keys import leaf_path as leaf_path
    from bridge_core.state.keys import module_path as module_path
    from bridge_core.state.keys import natural_order as natural_order
    from bridge_core.state.keys import split_name as split_name
    from bridge_core.state.keys import unflatten_tree as unflatten_tree
    from bridge_core.state.metadata import MARKER as MARKER
    from bridge_core.state.metadata import AuxiliaryTensor as AuxiliaryTensor
    from bridge_core.state.metadata import LayerInfo as LayerInfo
    from bridge_core.state.metadata import ModuleInfo as ModuleInfo
    from bridge_core.state.metadata import StateMetadata as StateMetadata
    from bridge_core.state.metadata import dump_metadata as dump_metadata
    from bridge_core.state.metadata import load_metadata as load_metadata
    from bridge_core.state.regions import Region as Region
    from bridge_core.state.regions import full as full
    from bridge_core.state.regions import region_shape as region_shape
    from bridge_core.state.tensors import Array as Array
    from bridge_core.state.tensors import ArrayTensor as ArrayTensor
    from bridge_core.state.tensors import FileTensor as FileTensor
    from bridge_core.state.tensors import LazyTensor as LazyTensor
    from bridge_core.state.tensors import StridedFileTensor as StridedFileTensor
    from bridge_core.state.tensors import Tensor as Tensor
    from bridge_core.state.tensors import TensorSpec as TensorSpec
    from bridge_core.state.tensors import as_tensor as as_tensor
    from bridge_core.state.tensors import checked_bools as checked_bools
    from bridge_core.state.tensors import equal_values as equal_values
    from bridge_core.state.ties import Ties as Ties
    from bridge_core.state.variable_collections import VariableCollections as VariableCollections
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "dtypes": "DTYPES MAX_RANK PACKED cast_is_exact dtype_named is_floating native",
            "flat_state": "FlatState as_state",
            "keys": "Key LeafKey as_key flat_names flatten_tree is_unicode join_key leaf_path module_path "
            "natural_order split_name unflatten_tree",
            "metadata": "LayerInfo MARKER ModuleInfo AuxiliaryTensor StateMetadata dump_metadata "
            "load_metadata",
            "regions": "Region full region_shape",
            "tensors": "Array ArrayTensor FileTensor LazyTensor StridedFileTensor Tensor TensorSpec "
            "as_tensor checked_bools equal_values",
            "ties": "Ties",
            "variable_collections": "VariableCollections",
        },
    )
