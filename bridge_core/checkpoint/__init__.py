"""Open and save checkpoints by path."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.checkpoint.checkpoint_writer import Saved as Saved
    from bridge_core.checkpoint.model_config import config_beside as config_beside
    from bridge_core.checkpoint.open_save import names_folder as names_folder
    from bridge_core.checkpoint.open_save import open_state as open_state
    from bridge_core.checkpoint.open_save import save_state as save_state
    from bridge_core.checkpoint.weight_files import is_weights_name as is_weights_name
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "checkpoint_writer": "Saved",
            "model_config": "config_beside",
            "open_save": "names_folder open_state save_state",
            "weight_files": "is_weights_name",
        },
    )
