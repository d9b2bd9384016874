"""Moving values with bounded memory and several threads."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.transfer.block_plan import is_plain_copy as is_plain_copy
    from bridge_core.transfer.block_plan import scratch_bytes as scratch_bytes
    from bridge_core.transfer.block_reader import read_block as read_block
    from bridge_core.transfer.block_reader import read_whole as read_whole
    from bridge_core.transfer.budget import Budget as Budget
    from bridge_core.transfer.budget import parse_size as parse_size
    from bridge_core.transfer.compare import Comparison as Comparison
    from bridge_core.transfer.compare import Difference as Difference
    from bridge_core.transfer.compare import compare_states as compare_states
    from bridge_core.transfer.file_writer import COPY_BLOCK as COPY_BLOCK
    from bridge_core.transfer.file_writer import FileTarget as FileTarget
    from bridge_core.transfer.load import LoadedTensor as LoadedTensor
    from bridge_core.transfer.load import load_values as load_values
    from bridge_core.transfer.progress import Meter as Meter
    from bridge_core.transfer.progress import Progress as Progress
    from bridge_core.transfer.scatter import little as little
    from bridge_core.transfer.scratch import Scratch as Scratch
    from bridge_core.transfer.scratch import ScratchPool as ScratchPool
    from bridge_core.transfer.thread_pool import work_off as work_off
    from bridge_core.transfer.transpose import copy_into as copy_into
    from bridge_core.transfer.transpose import kernel_for as kernel_for
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "block_plan": "is_plain_copy scratch_bytes",
            "block_reader": "read_block read_whole",
            "budget": "Budget parse_size",
            "compare": "Comparison Difference compare_states",
            "file_writer": "COPY_BLOCK FileTarget",
            "load": "LoadedTensor load_values",
            "progress": "Meter Progress",
            "scatter": "little",
            "scratch": "Scratch ScratchPool",
            "thread_pool": "work_off",
            "transpose": "copy_into kernel_for",
        },
    )
