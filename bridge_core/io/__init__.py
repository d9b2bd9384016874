"""Bytes of files, safely: read by position, check, replace in one step."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.io.atomic_write import (
        read_all as read_all,
        replacing_file as replacing_file,
        replacing_folder as replacing_folder,
        write_all as write_all,
    )
    from bridge_core.io.byte_source import ByteSource as ByteSource
    from bridge_core.io.checksummed import (
        ChecksummedBlocks as ChecksummedBlocks,
        ChecksummedRange as ChecksummedRange,
    )
    from bridge_core.io.crc32 import crc32_combine as crc32_combine
    from bridge_core.io.downloads import (
        control_file as control_file,
        is_unfinished as is_unfinished,
        unfinished_downloads as unfinished_downloads,
    )
    from bridge_core.io.fetching import fetch_memory as fetch_memory, stopped_by as stopped_by
    from bridge_core.io.file_system import (
        CommitsFolders as CommitsFolders,
        FileSystem as FileSystem,
        RangeAnswer as RangeAnswer,
        RemoteEntry as RemoteEntry,
        WritableFileSystem as WritableFileSystem,
    )
    from bridge_core.io.location import (
        Location as Location,
        exists_beside as exists_beside,
        files_in as files_in,
        is_location as is_location,
        names_beside as names_beside,
        names_in as names_in,
        open_listed as open_listed,
        open_location as open_location,
        shown_path as shown_path,
        size_of as size_of,
    )
    from bridge_core.io.machine import (
        limit_process as limit_process,
        machine_memory as machine_memory,
        memory_limit as memory_limit,
        processors as processors,
        return_freed_memory as return_freed_memory,
    )
    from bridge_core.io.page_cache import (
        cached_nbytes as cached_nbytes,
        can_drop_pages as can_drop_pages,
        drop_pages as drop_pages,
        finish_writeback as finish_writeback,
        start_writeback as start_writeback,
    )
    from bridge_core.io.range_parts import JOINED_GAP as JOINED_GAP
    from bridge_core.io.remote_file import RemoteFile as RemoteFile
    from bridge_core.io.remote_folder import folder_at as folder_at
    from bridge_core.io.remote_path import RemotePath as RemotePath
    from bridge_core.io.retries import repeated as repeated
    from bridge_core.io.source_file import (
        SourceFile as SourceFile,
        is_plain_name as is_plain_name,
        nearest_file as nearest_file,
    )
    from bridge_core.io.source_folder import SourceFolder as SourceFolder
    from bridge_core.io.strict_json import parse_json as parse_json
    from bridge_core.io.syscalls import (
        allocate as allocate,
        create_file as create_file,
        open_to_write as open_to_write,
    )
    from bridge_core.io.system_errors import system_failures as system_failures
    from bridge_core.io.temporaries import scratch_folder as scratch_folder, sweep as sweep
    from bridge_core.io.toml_text import (
        TomlText as TomlText,
        parse_toml as parse_toml,
        read_toml as read_toml,
        read_toml_head as read_toml_head,
        read_toml_text as read_toml_text,
    )
    from bridge_core.io.urls import (
        child_url as child_url,
        parent_url as parent_url,
        scheme_of as scheme_of,
        shown_url as shown_url,
    )
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "atomic_write": "read_all replacing_file replacing_folder write_all",
            "byte_source": "ByteSource",
            "checksummed": "ChecksummedBlocks ChecksummedRange",
            "crc32": "crc32_combine",
            "downloads": "control_file is_unfinished unfinished_downloads",
            "fetching": "fetch_memory stopped_by",
            "file_system": "CommitsFolders FileSystem RangeAnswer RemoteEntry WritableFileSystem",
            "location": "Location exists_beside files_in is_location names_beside names_in open_listed "
            "open_location shown_path size_of",
            "machine": "limit_process machine_memory memory_limit processors return_freed_memory",
            "page_cache": "cached_nbytes can_drop_pages drop_pages finish_writeback start_writeback",
            "range_parts": "JOINED_GAP",
            "remote_file": "RemoteFile",
            "remote_folder": "folder_at",
            "remote_path": "RemotePath",
            "retries": "repeated",
            "source_file": "SourceFile is_plain_name nearest_file",
            "source_folder": "SourceFolder",
            "strict_json": "parse_json",
            "syscalls": "allocate create_file open_to_write",
            "system_errors": "system_failures",
            "temporaries": "scratch_folder sweep",
            "toml_text": "TomlText parse_toml read_toml read_toml_head read_toml_text",
            "urls": "child_url parent_url scheme_of shown_url",
        },
        moved={
            "CheckedBlocks": "bridge_core.io:ChecksummedBlocks",
            "CheckedRange": "bridge_core.io:ChecksummedRange",
        },
    )
