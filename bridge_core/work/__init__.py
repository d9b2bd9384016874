"""Conversions in parts: lists, parts, receipts, manifests."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.work.balance import balanced_parts as balanced_parts
    from bridge_core.work.digests import (
        json_digest as json_digest,
        specs_digest as specs_digest,
    )
    from bridge_core.work.manifest import Manifest as Manifest, read_manifest as read_manifest
    from bridge_core.work.manifest_check import (
        Damage as Damage,
        ManifestCheck as ManifestCheck,
        verify_manifest as verify_manifest,
    )
    from bridge_core.work.receipts import Receipt as Receipt
    from bridge_core.work.source_identity import (
        SourceIdentity as SourceIdentity,
        identity_of_source as identity_of_source,
    )
    from bridge_core.work.work_folder import WorkFolder as WorkFolder
    from bridge_core.work.work_list import (
        ListedFile as ListedFile,
        WorkList as WorkList,
        read_work_list as read_work_list,
    )
    from bridge_core.work.written_file import (
        TensorSum as TensorSum,
        WrittenFile as WrittenFile,
        tensor_sums as tensor_sums,
    )
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "balance": "balanced_parts",
            "digests": "json_digest specs_digest",
            "manifest": "Manifest read_manifest",
            "manifest_check": "Damage ManifestCheck verify_manifest",
            "receipts": "Receipt",
            "source_identity": "SourceIdentity identity_of_source",
            "work_folder": "WorkFolder",
            "work_list": "ListedFile WorkList read_work_list",
            "written_file": "TensorSum WrittenFile tensor_sums",
        },
    )
