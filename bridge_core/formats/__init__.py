"""File formats: bytes to a lazy state, and a state to a file layout."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.formats.base import Capabilities as Capabilities
    from bridge_core.formats.base import Format as Format
    from bridge_core.formats.base import ShardNames as ShardNames
    from bridge_core.formats.base import WriteTarget as WriteTarget
    from bridge_core.formats.file_layout import Extent as Extent
    from bridge_core.formats.file_layout import FileImage as FileImage
    from bridge_core.formats.foreign import describe_foreign as describe_foreign
    from bridge_core.formats.npz import NpzFormat as NpzFormat
    from bridge_core.formats.safetensors import SafetensorsFormat as SafetensorsFormat
    from bridge_core.formats.sharded import index_text as index_text
    from bridge_core.formats.sharded import is_index as is_index
    from bridge_core.formats.sharded import open_sharded as open_sharded
    from bridge_core.formats.sharded import partition as partition
    from bridge_core.formats.sharded import shard_state as shard_state
    from bridge_core.formats.zip_archive import STORED as STORED
    from bridge_core.formats.zip_archive import ZipMember as ZipMember
    from bridge_core.formats.zip_archive import read_directory as read_directory
    from bridge_core.formats.zip_archive import read_member as read_member
    from bridge_core.formats.zip_archive import read_members as read_members
    from bridge_core.formats.zip_layout import NewMember as NewMember
    from bridge_core.formats.zip_layout import zip_image as zip_image
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "base": "Capabilities Format ShardNames WriteTarget",
            "file_layout": "Extent FileImage",
            "foreign": "describe_foreign",
            "npz": "NpzFormat",
            "safetensors": "SafetensorsFormat",
            "sharded": "index_text is_index open_sharded partition shard_state",
            "zip_archive": "STORED ZipMember read_directory read_member read_members",
            "zip_layout": "NewMember zip_image",
        },
    )
