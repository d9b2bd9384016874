"""The old conversion functions of transformers 4, with their signatures, implemented with ckptbridge.

Each has the arguments and the result of the function of its name in
``transformers.modeling_flax_pytorch_utils``. `install` puts them in place there, together with loading and
saving, so that existing programs need no change. Where the old functions gave wrong weights, these give
right ones or refuse.

Errors are `BridgeError`, and at the same time the built-in class that callers of the old functions catch:
`WrongWeights` and `LossyLoad` are `ValueError`, `UnreadableWeights` is an `OSError`.
"""

from __future__ import annotations

from ckptbridge_transformers.compat.errors import LossyLoad, UnreadableWeights, WrongWeights
from ckptbridge_transformers.compat.installation import Installation, install, installed
from ckptbridge_transformers.compat.names import rename_key_and_reshape_tensor
from ckptbridge_transformers.compat.to_flax import (
    convert_pytorch_sharded_state_dict_to_flax,
    convert_pytorch_state_dict_to_flax,
    load_pytorch_checkpoint_in_flax_state_dict,
)
from ckptbridge_transformers.compat.to_torch import (
    load_flax_checkpoint_in_pytorch_model,
    load_flax_weights_in_pytorch_model,
)

__all__ = [
    "convert_pytorch_sharded_state_dict_to_flax",
    "convert_pytorch_state_dict_to_flax",
    "install",
    "Installation",
    "installed",
    "load_flax_checkpoint_in_pytorch_model",
    "load_flax_weights_in_pytorch_model",
    "load_pytorch_checkpoint_in_flax_state_dict",
    "LossyLoad",
    "rename_key_and_reshape_tensor",
    "UnreadableWeights",
    "WrongWeights",
]
