"""What a checkpoint is in memory: keys, lazy tensors, metadata."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.state.dtypes import (
        DTYPES as DTYPES,
        MAX_RANK as MAX_RANK,
        PACKED as PACKED,
        cast_is_exact as cast_is_exact,
        dtype_named as dtype_named,
        is_floating as is_floating,
        native as native,
    )
    from bridge_core.state.entries import (
        mapping_entry as mapping_entry,
        read_from_entry as read_from_entry,
        require_entry_path as require_entry_path,
        select_entry as select_entry,
        unknown_entry as unknown_entry,
    )
    from bridge_core.state.flat_state import FlatState as FlatState, as_state as as_state
    from bridge_core.state.keys import (
        Key as Key,
        LeafKey as LeafKey,
        as_key as as_key,
        flat_names as flat_names,
        flatten_tree as flatten_tree,
        is_unicode as is_unicode,
        join_key as join_key,
        key_family as key_family,
        leaf_path as leaf_path,
        module_path as module_path,
        natural_order as natural_order,
        separator_of as separator_of,
        split_name as split_name,
        split_names as split_names,
        unflatten_tree as unflatten_tree,
    )
    from bridge_core.state.left_out import LeftOut as LeftOut, left_out_note as left_out_note
    from bridge_core.state.metadata import (
        MARKER as MARKER,
        AuxiliaryTensor as AuxiliaryTensor,
        LayerInfo as LayerInfo,
        ModuleInfo as ModuleInfo,
        RecordedRule as RecordedRule,
        StateMetadata as StateMetadata,
        dump_metadata as dump_metadata,
        load_metadata as load_metadata,
    )
    from bridge_core.state.metadata_fit import check_fit as check_fit, misfit as misfit
    from bridge_core.state.metadata_given import check_given as check_given
    from bridge_core.state.metadata_moves import (
        renamed_metadata as renamed_metadata,
        restricted_metadata as restricted_metadata,
    )
    from bridge_core.state.regions import Region as Region, full as full, region_shape as region_shape
    from bridge_core.state.selection import Selection as Selection, shortened as shortened
    from bridge_core.state.tensors import (
        Array as Array,
        ArrayTensor as ArrayTensor,
        FileTensor as FileTensor,
        LazyTensor as LazyTensor,
        StridedFileTensor as StridedFileTensor,
        Tensor as Tensor,
        TensorSpec as TensorSpec,
        as_tensor as as_tensor,
        checked_bools as checked_bools,
        equal_values as equal_values,
    )
    from bridge_core.state.ties import Ties as Ties, held_ties as held_ties
    from bridge_core.state.variable_collections import VariableCollections as VariableCollections
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "dtypes": "DTYPES MAX_RANK PACKED cast_is_exact dtype_named is_floating native",
            "entries": "mapping_entry read_from_entry require_entry_path select_entry unknown_entry",
            "flat_state": "FlatState as_state",
            "keys": "Key LeafKey as_key flat_names flatten_tree is_unicode join_key key_family leaf_path "
            "module_path natural_order separator_of split_name split_names unflatten_tree",
            "left_out": "LeftOut left_out_note",
            "metadata": "LayerInfo MARKER ModuleInfo AuxiliaryTensor RecordedRule StateMetadata "
            "dump_metadata load_metadata",
            "metadata_fit": "check_fit misfit",
            "metadata_given": "check_given",
            "metadata_moves": "renamed_metadata restricted_metadata",
            "regions": "Region full region_shape",
            "selection": "Selection shortened",
            "tensors": "Array ArrayTensor FileTensor LazyTensor StridedFileTensor Tensor TensorSpec "
            "as_tensor checked_bools equal_values",
            "ties": "Ties held_ties",
            "variable_collections": "VariableCollections",
        },
    )
