"""A checkpoint bridge between machine-learning frameworks, over one framework-neutral form."""

from bridge_core.dtypes import DTYPES, PACKED, cast_is_exact, dtype_named, is_floating
from bridge_core.errors import (
    AmbiguousLayerError,
    BadInputError,
    BridgeError,
    ConversionError,
    DestinationExists,
    IntegrityError,
    KeyConflict,
    LimitExceeded,
    LossyCastError,
    MalformedFile,
    MismatchError,
    MissingDependency,
    PlanError,
    PluginConflict,
    PluginError,
    RuleError,
    ShardError,
    SystemFailure,
    TruncatedFile,
    UnsafeFile,
    UnsupportedFeature,
    UsageError,
    VerificationError,
)
from bridge_core.files import SourceFile
from bridge_core.hookspecs import hookimpl
from bridge_core.interfaces import (
    Capabilities,
    Extent,
    FileImage,
    Format,
    Framework,
    ShardNames,
    WriteTarget,
)
from bridge_core.keys import (
    Key,
    as_key,
    flat_names,
    flatten_tree,
    join_key,
    natural_order,
    split_name,
    unflatten_tree,
)
from bridge_core.layers import LayerKind, LayerTransform, Leaf
from bridge_core.metadata import (
    MARKER,
    LayerInfo,
    ModuleInfo,
    Residual,
    StateMetadata,
    dump_metadata,
    load_metadata,
    strict_json,
)
from bridge_core.output import write_all
from bridge_core.plugins import Registry, default_registry
from bridge_core.regions import Region
from bridge_core.state import FlatState, as_state
from bridge_core.tensors import (
    Array,
    ArrayTensor,
    FileTensor,
    LazyTensor,
    StridedFileTensor,
    Tensor,
    TensorSpec,
    as_tensor,
)
