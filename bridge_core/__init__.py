"""A checkpoint bridge between machine-learning frameworks, over one framework-neutral form."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core import (
        axes as axes,
        checkpoint as checkpoint,
        conversion as conversion,
        formats as formats,
        io as io,
        layers as layers,
        ops as ops,
        plan as plan,
        plugins as plugins,
        proof as proof,
        resolve as resolve,
        rules as rules,
        state as state,
        transfer as transfer,
        work as work,
    )
    from bridge_core.checkpoint import (
        open_state as open_state,
        save_state as save_state,
    )
    from bridge_core.conversion import (
        Report as Report,
        convert as convert,
        finish_work as finish_work,
        from_neutral as from_neutral,
        make_work as make_work,
        plan_conversion as plan_conversion,
        run_part as run_part,
        to_neutral as to_neutral,
        verify as verify,
        work_status as work_status,
    )
    from bridge_core.errors import (
        AccessDenied as AccessDenied,
        AmbiguousLayerError as AmbiguousLayerError,
        BadInputError as BadInputError,
        BridgeError as BridgeError,
        BridgeWarning as BridgeWarning,
        ConversionError as ConversionError,
        ConversionWarning as ConversionWarning,
        DeprecatedName as DeprecatedName,
        DestinationExists as DestinationExists,
        DestinationIsFolder as DestinationIsFolder,
        FileWarning as FileWarning,
        IntegrityError as IntegrityError,
        KeyConflict as KeyConflict,
        LimitExceeded as LimitExceeded,
        LossyCastError as LossyCastError,
        MalformedFile as MalformedFile,
        MismatchError as MismatchError,
        MissingDependency as MissingDependency,
        NeedsLocalPath as NeedsLocalPath,
        OutOfMemory as OutOfMemory,
        PermissionDenied as PermissionDenied,
        PlanError as PlanError,
        PluginConflict as PluginConflict,
        PluginError as PluginError,
        PluginWarning as PluginWarning,
        RecipeRequired as RecipeRequired,
        RemoteFailure as RemoteFailure,
        RuleError as RuleError,
        ShardError as ShardError,
        SourceIsFolder as SourceIsFolder,
        SourceNotFound as SourceNotFound,
        SystemFailure as SystemFailure,
        TruncatedFile as TruncatedFile,
        UnclaimedTensorError as UnclaimedTensorError,
        UnknownKey as UnknownKey,
        UnsafeFile as UnsafeFile,
        UnsupportedFeature as UnsupportedFeature,
        UnsupportedLayerError as UnsupportedLayerError,
        UsageError as UsageError,
        VerificationError as VerificationError,
    )
    from bridge_core.formats import (
        Capabilities as Capabilities,
        FileImage as FileImage,
        Format as Format,
        HeaderFormat as HeaderFormat,
        StoredTensor as StoredTensor,
        WriteTarget as WriteTarget,
    )
    from bridge_core.io import (
        SourceFile as SourceFile,
    )
    from bridge_core.layers import (
        LayerKind as LayerKind,
        LayerTransform as LayerTransform,
        Leaf as Leaf,
        custom_layer as custom_layer,
    )
    from bridge_core.plan import (
        Plan as Plan,
        Step as Step,
    )
    from bridge_core.plugins import (
        Checkpoint as Checkpoint,
        Framework as Framework,
        FrameworkBase as FrameworkBase,
        Guidance as Guidance,
        Library as Library,
        Registry as Registry,
        default_registry as default_registry,
        hookimpl as hookimpl,
    )
    from bridge_core.proof import (
        match as match,
        prove as prove,
    )
    from bridge_core.rules import (
        Rule as Rule,
        load_rules as load_rules,
    )
    from bridge_core.state import (
        ArrayTensor as ArrayTensor,
        FileTensor as FileTensor,
        FlatState as FlatState,
        Key as Key,
        StateMetadata as StateMetadata,
        Tensor as Tensor,
        TensorSpec as TensorSpec,
        as_key as as_key,
        as_state as as_state,
        join_key as join_key,
        split_name as split_name,
        split_names as split_names,
    )
    from bridge_core.transfer import (
        Progress as Progress,
        compare_states as compare_states,
        load_values as load_values,
    )
    from bridge_core.work import (
        verify_manifest as verify_manifest,
    )
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "checkpoint": "open_state save_state",
            "conversion": (
                "convert finish_work from_neutral make_work plan_conversion Report run_part to_neutral "
                "verify work_status"
            ),
            "errors": (
                "AccessDenied AmbiguousLayerError BadInputError BridgeError BridgeWarning "
                "ConversionError ConversionWarning DeprecatedName DestinationExists DestinationIsFolder "
                "FileWarning IntegrityError KeyConflict LimitExceeded LossyCastError "
                "MalformedFile MismatchError MissingDependency NeedsLocalPath OutOfMemory "
                "PermissionDenied PlanError PluginConflict PluginError PluginWarning RecipeRequired "
                "RemoteFailure RuleError "
                "ShardError SourceIsFolder SourceNotFound SystemFailure TruncatedFile "
                "UnclaimedTensorError UnknownKey UnsafeFile UnsupportedFeature "
                "UnsupportedLayerError UsageError VerificationError"
            ),
            "formats": "Capabilities FileImage Format HeaderFormat StoredTensor WriteTarget",
            "io": "SourceFile",
            "layers": "custom_layer LayerKind LayerTransform Leaf",
            "plan": "Plan Step",
            "plugins": (
                "Checkpoint default_registry Framework FrameworkBase Guidance hookimpl Library Registry"
            ),
            "proof": "match prove",
            "rules": "load_rules Rule",
            "state": (
                "ArrayTensor as_key as_state FileTensor FlatState join_key Key split_name split_names "
                "StateMetadata Tensor TensorSpec"
            ),
            "transfer": "compare_states load_values Progress",
            "work": "verify_manifest",
        },
        packages=(
            "axes checkpoint conversion formats io layers ops plan plugins proof resolve rules state "
            "transfer work"
        ),
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
