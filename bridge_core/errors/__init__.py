"""Every error and warning that the bridge raises on purpose.

A caller needs one ``except BridgeError``; the command maps each class to an exit code. Each class has a
stable code, listed in ``docs/errors.md``, and is also the built-in class that fits it, so that
``except FileNotFoundError`` works. What an error is about is in its attributes: programs parse no messages.
"""

from bridge_core.errors.base import (
    BridgeError as BridgeError,
    about_tensor as about_tensor,
)
from bridge_core.errors.failures import (
    BadInputError as BadInputError,
    IntegrityError as IntegrityError,
    KeyConflict as KeyConflict,
    LimitExceeded as LimitExceeded,
    MalformedFile as MalformedFile,
    MissingDependency as MissingDependency,
    OutOfMemory as OutOfMemory,
    PermissionDenied as PermissionDenied,
    ShardError as ShardError,
    SourceIsFolder as SourceIsFolder,
    SourceNotFound as SourceNotFound,
    SystemFailure as SystemFailure,
    TruncatedFile as TruncatedFile,
    UnknownKey as UnknownKey,
    UnsafeFile as UnsafeFile,
    UnsupportedFeature as UnsupportedFeature,
    UsageError as UsageError,
)
from bridge_core.errors.issued_warnings import (
    BridgeWarning as BridgeWarning,
    ConversionWarning as ConversionWarning,
    DeprecatedName as DeprecatedName,
    FileWarning as FileWarning,
    PluginWarning as PluginWarning,
)
from bridge_core.errors.refusals import (
    AmbiguousLayerError as AmbiguousLayerError,
    ConversionError as ConversionError,
    DestinationExists as DestinationExists,
    DestinationIsFolder as DestinationIsFolder,
    LossyCastError as LossyCastError,
    MismatchError as MismatchError,
    PlanError as PlanError,
    PluginConflict as PluginConflict,
    PluginError as PluginError,
    RuleError as RuleError,
    UnclaimedTensorError as UnclaimedTensorError,
    UnsupportedLayerError as UnsupportedLayerError,
    VerificationError as VerificationError,
)

__all__ = [
    "about_tensor",
    "AmbiguousLayerError",
    "BadInputError",
    "BridgeError",
    "BridgeWarning",
    "ConversionError",
    "ConversionWarning",
    "DeprecatedName",
    "DestinationExists",
    "DestinationIsFolder",
    "FileWarning",
    "IntegrityError",
    "KeyConflict",
    "LimitExceeded",
    "LossyCastError",
    "MalformedFile",
    "MismatchError",
    "MissingDependency",
    "OutOfMemory",
    "PermissionDenied",
    "PlanError",
    "PluginConflict",
    "PluginError",
    "PluginWarning",
    "RuleError",
    "ShardError",
    "SourceIsFolder",
    "SourceNotFound",
    "SystemFailure",
    "TruncatedFile",
    "UnclaimedTensorError",
    "UnknownKey",
    "UnsafeFile",
    "UnsupportedFeature",
    "UnsupportedLayerError",
    "UsageError",
    "VerificationError",
]
