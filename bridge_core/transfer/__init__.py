"""Moving values with bounded memory and several threads."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.transfer.block_plan import BlockPlan as BlockPlan, plan_blocks as plan_blocks
    from bridge_core.transfer.block_reader import read_blocks as read_blocks, read_whole as read_whole
    from bridge_core.transfer.budget import Budget as Budget, parse_size as parse_size
    from bridge_core.transfer.compare import (
        Comparison as Comparison,
        Difference as Difference,
        compare_states as compare_states,
    )
    from bridge_core.transfer.file_writer import FileTarget as FileTarget
    from bridge_core.transfer.folder_writer import FolderWriter as FolderWriter
    from bridge_core.transfer.load import (
        LoadedTensor as LoadedTensor,
        load_values as load_values,
        overflow_message as overflow_message,
    )
    from bridge_core.transfer.progress import Meter as Meter, Progress as Progress
    from bridge_core.transfer.remote_reading import (
        announce_plans as announce_plans,
        announce_region as announce_region,
        sharing_memory as sharing_memory,
    )
    from bridge_core.transfer.scatter import little_endian_bytes as little_endian_bytes
    from bridge_core.transfer.scratch import Scratch as Scratch, ScratchPool as ScratchPool
    from bridge_core.transfer.shares import (
        Cut as Cut,
        ReadCost as ReadCost,
        best_cut as best_cut,
        boxed as boxed,
        grouped_by_chunks as grouped_by_chunks,
        joined_boxes as joined_boxes,
        read_cost as read_cost,
    )
    from bridge_core.transfer.thread_pool import run_jobs as run_jobs
    from bridge_core.transfer.transpose import copy_into as copy_into, kernel_for as kernel_for
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "block_plan": "BlockPlan plan_blocks",
            "block_reader": "read_blocks read_whole",
            "budget": "Budget parse_size",
            "compare": "Comparison Difference compare_states",
            "file_writer": "FileTarget",
            "folder_writer": "FolderWriter",
            "load": "LoadedTensor load_values overflow_message",
            "progress": "Meter Progress",
            "remote_reading": "announce_plans announce_region sharing_memory",
            "scatter": "little_endian_bytes",
            "scratch": "Scratch ScratchPool",
            "shares": "Cut ReadCost best_cut boxed grouped_by_chunks joined_boxes read_cost",
            "thread_pool": "run_jobs",
            "transpose": "copy_into kernel_for",
        },
    )
