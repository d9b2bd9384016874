"""Open and save checkpoints by path."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.checkpoint.checkpoint_writer import write_checkpoint as write_checkpoint
    from bridge_core.checkpoint.destinations import (
        Destination as Destination,
        as_destined as as_destined,
        destination_at as destination_at,
    )
    from bridge_core.checkpoint.detect_format import is_set_of_shards as is_set_of_shards
    from bridge_core.checkpoint.file_writing import FileWriter as FileWriter
    from bridge_core.checkpoint.folder_checkpoint import contents_of as contents_of
    from bridge_core.checkpoint.format_choice import chosen_format as chosen_format
    from bridge_core.checkpoint.guided_writing import guided as guided
    from bridge_core.checkpoint.joint_writing import JointFolder as JointFolder
    from bridge_core.checkpoint.locations import locate as locate, location_of as location_of
    from bridge_core.checkpoint.model_config import (
        config_beside as config_beside,
        read_config as read_config,
    )
    from bridge_core.checkpoint.open_save import open_state as open_state, save_state as save_state
    from bridge_core.checkpoint.own_files import (
        MANIFEST_NAME as MANIFEST_NAME,
        WORK_FOLDER as WORK_FOLDER,
        manifest_name as manifest_name,
    )
    from bridge_core.checkpoint.partial_files import Part as Part, part_of as part_of
    from bridge_core.checkpoint.saved import Saved as Saved
    from bridge_core.checkpoint.shards import (
        PlannedFile as PlannedFile,
        PlannedFiles as PlannedFiles,
        plan_files as plan_files,
        write_planned_file as write_planned_file,
    )
    from bridge_core.checkpoint.sidecar_files import check_copy as check_copy, fill_file as fill_file
    from bridge_core.checkpoint.verification import checksum as checksum
    from bridge_core.checkpoint.weight_files import (
        find_weights as find_weights,
        is_weights_name as is_weights_name,
    )
    from bridge_core.checkpoint.write_checks import checked_state as checked_state
    from bridge_core.checkpoint.write_options import WriteOptions as WriteOptions
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "checkpoint_writer": "write_checkpoint",
            "destinations": "Destination as_destined destination_at",
            "detect_format": "is_set_of_shards",
            "file_writing": "FileWriter",
            "folder_checkpoint": "contents_of",
            "format_choice": "chosen_format",
            "guided_writing": "guided",
            "joint_writing": "JointFolder",
            "locations": "locate location_of",
            "model_config": "config_beside read_config",
            "open_save": "open_state save_state",
            "own_files": "MANIFEST_NAME WORK_FOLDER manifest_name",
            "partial_files": "Part part_of",
            "saved": "Saved",
            "shards": "PlannedFile PlannedFiles plan_files write_planned_file",
            "sidecar_files": "check_copy fill_file",
            "verification": "checksum",
            "weight_files": "find_weights is_weights_name",
            "write_checks": "checked_state",
            "write_options": "WriteOptions",
        },
    )
