"""File formats: bytes to a lazy state, and a state to a file layout."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.formats.base import (
        Capabilities as Capabilities,
        Format as Format,
        FormatWithEntries as FormatWithEntries,
        ShardNames as ShardNames,
        WriteTarget as WriteTarget,
    )
    from bridge_core.formats.file_layout import Extent as Extent, FileImage as FileImage
    from bridge_core.formats.folder import (
        FolderContents as FolderContents,
        FolderFormat as FolderFormat,
        FolderItem as FolderItem,
        FolderTarget as FolderTarget,
    )
    from bridge_core.formats.foreign import describe_foreign as describe_foreign, is_index as is_index
    from bridge_core.formats.header_format import HeaderFormat as HeaderFormat
    from bridge_core.formats.header_reader import HeaderReader as HeaderReader, StoredTensor as StoredTensor
    from bridge_core.formats.npz import NpzFormat as NpzFormat
    from bridge_core.formats.safetensors import SafetensorsFormat as SafetensorsFormat
    from bridge_core.formats.shard_folder import ShardName as ShardName, shard_name as shard_name
    from bridge_core.formats.shard_index import read_shard_index as read_shard_index
    from bridge_core.formats.sharded import (
        index_text as index_text,
        open_sharded as open_sharded,
        partition as partition,
        shard_state as shard_state,
    )
    from bridge_core.formats.zip_archive import (
        STORED as STORED,
        ZipMember as ZipMember,
        read_directory as read_directory,
        read_member as read_member,
        read_members as read_members,
    )
    from bridge_core.formats.zip_layout import NewMember as NewMember, zip_image as zip_image
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "base": "Capabilities Format FormatWithEntries ShardNames WriteTarget",
            "file_layout": "Extent FileImage",
            "folder": "FolderContents FolderFormat FolderItem FolderTarget",
            "foreign": "describe_foreign is_index",
            "header_format": "HeaderFormat",
            "header_reader": "HeaderReader StoredTensor",
            "npz": "NpzFormat",
            "safetensors": "SafetensorsFormat",
            "shard_folder": "ShardName shard_name",
            "shard_index": "read_shard_index",
            "sharded": "index_text open_sharded partition shard_state",
            "zip_archive": "STORED ZipMember read_directory read_member read_members",
            "zip_layout": "NewMember zip_image",
        },
    )
