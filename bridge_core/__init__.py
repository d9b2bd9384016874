"""A checkpoint bridge between machine-learning frameworks, over one framework-neutral form."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core import axes as axes
    from bridge_core import checkpoint as checkpoint
    from bridge_core import conversion as conversion
    from bridge_core import formats as formats
    from bridge_core import io as io
    from bridge_core import layers as layers
    from bridge_core import ops as ops
    from bridge_core import plan as plan
    from bridge_core import plugins as plugins
    from bridge_core import resolve as resolve
    from bridge_core import rules as rules
    from bridge_core import state as state
    from bridge_core import transfer as transfer
    from bridge_core.checkpoint import (
        open_state as open_state,
    )
    from bridge_core.checkpoint import (
        save_state as save_state,
    )
    from bridge_core.conversion import (
        Report as Report,
    )
    from bridge_core.conversion import (
        convert as convert,
    )
    from bridge_core.conversion import (
        from_neutral as from_neutral,
    )
    from bridge_core.conversion import (
        plan_conversion as plan_conversion,
    )
    from bridge_core.conversion import (
        to_neutral as to_neutral,
    )
    from bridge_core.conversion import (
        verify as verify,
    )
    from bridge_core.errors import (
        AmbiguousLayerError as AmbiguousLayerError,
    )
    from bridge_core.errors import (
        BadInputError as BadInputError,
    )
    from bridge_core.errors import (
        BridgeError as BridgeError,
    )
    from bridge_core.errors import (
        ConversionError as ConversionError,
    )
    from bridge_core.errors import (
        DestinationExists as DestinationExists,
    )
    from bridge_core.errors import (
        IntegrityError as IntegrityError,
    )
    from bridge_core.errors import (
        KeyConflict as KeyConflict,
    )
    from bridge_core.errors import (
        LimitExceeded as LimitExceeded,
    )
    from bridge_core.errors import (
        LossyCastError as LossyCastError,
    )
    from bridge_core.errors import (
        MalformedFile as MalformedFile,
    )
    from bridge_core.errors import (
        MismatchError as MismatchError,
    )
    from bridge_core.errors import (
        MissingDependency as MissingDependency,
    )
    from bridge_core.errors import (
        PlanError as PlanError,
    )
    from bridge_core.errors import (
        PluginConflict as PluginConflict,
    )
    from bridge_core.errors import (
        PluginError as PluginError,
    )
    from bridge_core.errors import (
        RuleError as RuleError,
    )
    from bridge_core.errors import (
        ShardError as ShardError,
    )
    from bridge_core.errors import (
        SystemFailure as SystemFailure,
    )
    from bridge_core.errors import (
        TruncatedFile as TruncatedFile,
    )
    from bridge_core.errors import (
        UnsafeFile as UnsafeFile,
    )
    from bridge_core.errors import (
        UnsupportedFeature as UnsupportedFeature,
    )
    from bridge_core.errors import (
        UnsupportedLayerError as UnsupportedLayerError,
    )
    from bridge_core.errors import (
        UsageError as UsageError,
    )
    from bridge_core.errors import (
        VerificationError as VerificationError,
    )
    from bridge_core.formats import (
        Capabilities as Capabilities,
    )
    from bridge_core.formats import (
        FileImage as FileImage,
    )
    from bridge_core.formats import (
        Format as Format,
    )
    from bridge_core.formats import (
        WriteTarget as WriteTarget,
    )
    from bridge_core.io import (
        SourceFile as SourceFile,
    )
    from bridge_core.layers import (
        LayerKind as LayerKind,
    )
    from bridge_core.layers import (
        LayerTransform as LayerTransform,
    )
    from bridge_core.layers import (
        Leaf as Leaf,
    )
    from bridge_core.plan import (
        Plan as Plan,
    )
    from bridge_core.plan import (
        Step as Step,
    )
    from bridge_core.plugins import (
        Checkpoint as Checkpoint,
    )
    from bridge_core.plugins import (
        Framework as Framework,
    )
    from bridge_core.plugins import (
        Guidance as Guidance,
    )
    from bridge_core.plugins import (
        Library as Library,
    )
    from bridge_core.plugins import (
        Registry as Registry,
    )
    from bridge_core.plugins import (
        default_registry as default_registry,
    )
    from bridge_core.plugins import (
        hookimpl as hookimpl,
    )
    from bridge_core.rules import (
        Rule as Rule,
    )
    from bridge_core.rules import (
        load_rules as load_rules,
    )
    from bridge_core.state import (
        ArrayTensor as ArrayTensor,
    )
    from bridge_core.state import (
        FileTensor as FileTensor,
    )
    from bridge_core.state import (
        FlatState as FlatState,
    )
    from bridge_core.state import (
        Key as Key,
    )
    from bridge_core.state import (
        StateMetadata as StateMetadata,
    )
    from bridge_core.state import (
        Tensor as Tensor,
    )
    from bridge_core.state import (
        TensorSpec as TensorSpec,
    )
    from bridge_core.state import (
        as_key as as_key,
    )
    from bridge_core.state import (
        as_state as as_state,
    )
    from bridge_core.state import (
        join_key as join_key,
    )
    from bridge_core.state import (
        split_name as split_name,
    )
    from bridge_core.transfer import (
        Progress as Progress,
    )
    from bridge_core.transfer import (
        compare_states as compare_states,
    )
    from bridge_core.transfer import (
        load_values as load_values,
    )
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "checkpoint": "open_state save_state",
            "conversion": "convert from_neutral plan_conversion Report to_neutral verify",
            "errors": (
                "AmbiguousLayerError BadInputError BridgeError ConversionError DestinationExists "
                "IntegrityError KeyConflict LimitExceeded LossyCastError MalformedFile "
                "MismatchError MissingDependency PlanError PluginConflict PluginError RuleError "
                "ShardError SystemFailure TruncatedFile UnsafeFile UnsupportedFeature "
                "UnsupportedLayerError UsageError VerificationError"
            ),
            "formats": "Capabilities FileImage Format WriteTarget",
            "io": "SourceFile",
            "layers": "LayerKind LayerTransform Leaf",
            "plan": "Plan Step",
            "plugins": "Checkpoint default_registry Framework Guidance hookimpl Library Registry",
            "rules": "load_rules Rule",
            "state": (
                "ArrayTensor as_key as_state FileTensor FlatState join_key Key split_name "
                "StateMetadata Tensor TensorSpec"
            ),
            "transfer": "compare_states load_values Progress",
        },
        packages="axes checkpoint conversion formats io layers ops plan plugins resolve rules state transfer",
        moved={
            "Array": "bridge_core.state:Array",
            "as_tensor": "bridge_core.state:as_tensor",
            "Cast": "bridge_core.ops:Cast",
            "cast_is_exact": "bridge_core.state:cast_is_exact",
            "checked_bools": "bridge_core.state:checked_bools",
            "CheckedBlocks": "bridge_core.io:ChecksummedBlocks",
            "CheckedRange": "bridge_core.io:ChecksummedRange",
            "Comparison": "bridge_core.transfer:Comparison",
            "Concat": "bridge_core.ops:Concat",
            "Copy": "bridge_core.ops:Duplicate",
            "Difference": "bridge_core.transfer:Difference",
            "Drop": "bridge_core.ops:Drop",
            "Dropped": "bridge_core.plan:Dropped",
            "dtype_named": "bridge_core.state:dtype_named",
            "DTYPES": "bridge_core.state:DTYPES",
            "dump_metadata": "bridge_core.state:dump_metadata",
            "Extent": "bridge_core.formats:Extent",
            "Fill": "bridge_core.ops:Fill",
            "flat_names": "bridge_core.state:flat_names",
            "flatten_tree": "bridge_core.state:flatten_tree",
            "Flip": "bridge_core.ops:Flip",
            "Int": "bridge_core.rules:Int",
            "is_floating": "bridge_core.state:is_floating",
            "Lanes": "bridge_core.ops:Parallel",
            "LayerInfo": "bridge_core.state:LayerInfo",
            "LazyTensor": "bridge_core.state:LazyTensor",
            "load": "bridge_core:load_values",
            "load_metadata": "bridge_core.state:load_metadata",
            "LoadedTensor": "bridge_core.transfer:LoadedTensor",
            "MARKER": "bridge_core.state:MARKER",
            "Mismatch": "bridge_core.plan:Mismatch",
            "ModuleInfo": "bridge_core.state:ModuleInfo",
            "natural_order": "bridge_core.state:natural_order",
            "Offset": "bridge_core.ops:Offset",
            "Op": "bridge_core.ops:Op",
            "Order": "bridge_core.ops:Reorder",
            "PACKED": "bridge_core.state:PACKED",
            "Pad": "bridge_core.ops:Pad",
            "Pattern": "bridge_core.rules:Pattern",
            "Permute": "bridge_core.ops:Permute",
            "Pick": "bridge_core.ops:Select",
            "Region": "bridge_core.state:Region",
            "Relocating": "bridge_core.plugins:Relocating",
            "Reshape": "bridge_core.ops:Reshape",
            "Residual": "bridge_core.state:AuxiliaryTensor",
            "Rules": "bridge_core.rules:Rules",
            "Same": "bridge_core.ops:RequireEqual",
            "Saved": "bridge_core.checkpoint:Saved",
            "ShardNames": "bridge_core.formats:ShardNames",
            "Split": "bridge_core.ops:Split",
            "Stack": "bridge_core.ops:Stack",
            "Str": "bridge_core.rules:Str",
            "strict_json": "bridge_core.io:parse_json",
            "StridedFileTensor": "bridge_core.state:StridedFileTensor",
            "Sum": "bridge_core.ops:Sum",
            "unflatten_tree": "bridge_core.state:unflatten_tree",
            "Unpad": "bridge_core.ops:Unpad",
            "Unstack": "bridge_core.ops:Unstack",
            "Unsum": "bridge_core.ops:SplitSum",
            "WithZeros": "bridge_core.ops:InsertZeros",
            "write_all": "bridge_core.io:write_all",
        },
    )
